"""What is quantized, and what it may cost."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from distil_nlp.errors import ExportError
from distil_nlp.export import check_metric_drop, onnx_logits
from distil_nlp.export.optimum_script import products_of_activations, read_weights_directly
from distil_nlp.export.quantize import quantize_model

ROWS, WIDTH = 50, 16
BATCH = {"input_ids": np.array([[1, 2, 3]])}


@pytest.fixture
def tied(tmp_path):
    """An embedding, one product of activations, one shared layer used twice, and a head that is the embedding."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["x"], name="look_up"),
        helper.make_node("Transpose", ["x"], ["xt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "xt"], ["scores"], name="scores"),
        helper.make_node("MatMul", ["scores", "x"], ["mixed"], name="mix"),
        helper.make_node("MatMul", ["mixed", "layer"], ["first"], name="first"),
        helper.make_node("Identity", ["layer"], ["layer_again"]),
        helper.make_node("MatMul", ["first", "layer_again"], ["second"], name="second"),
        helper.make_node("Transpose", ["embedding"], ["head"], perm=[1, 0]),
        helper.make_node("MatMul", ["second", "head"], ["logits"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "tied",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "tokens", ROWS])],
        [
            numpy_helper.from_array(rng.normal(size=(ROWS, WIDTH)).astype(np.float32), "embedding"),
            numpy_helper.from_array(rng.normal(size=(WIDTH, WIDTH)).astype(np.float32), "layer"),
        ],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def float_weights(path) -> set[str]:
    """The matrices that are still float32."""
    tensors = onnx.load(path).graph.initializer
    return {t.name for t in tensors if t.data_type == TensorProto.FLOAT and len(t.dims) == 2}


def shared_directly(path) -> list[str]:
    model = onnx.load(path)
    read_weights_directly(model.graph)
    onnx.save(model, path)
    return products_of_activations(model.graph)


def test_only_products_without_a_weight_are_left_out(tied):
    before = onnx_logits(tied, [BATCH])[0]["logits"]
    assert shared_directly(tied) == ["scores", "mix"]
    np.testing.assert_array_equal(onnx_logits(tied, [BATCH])[0]["logits"], before)


@pytest.mark.parametrize("target", ["avx2", "avx512_vnni", "arm64"])
def test_every_weight_is_quantized_once(tied, target):
    shared_directly(tied)
    quantized = tied.with_name("model_quantized.onnx")
    quantize_model(tied, quantized, target)
    assert float_weights(quantized) == set()
    before, after = (onnx_logits(path, [BATCH])[0]["logits"] for path in (tied, quantized))
    assert 0 < np.abs(before - after).max() < 0.1 * np.abs(before).max()


def test_target_decides_the_sign_of_the_weights(tied):
    quantized = tied.with_name("model_quantized.onnx")
    kinds = {}
    for target in ("avx2", "avx512_vnni"):
        quantize_model(tied, quantized, target)
        weights = {t.name: t.data_type for t in onnx.load(quantized).graph.initializer}
        kinds[target] = weights["layer_quantized"]
    assert kinds == {"avx2": TensorProto.UINT8, "avx512_vnni": TensorProto.INT8}


def test_operators_can_stay_in_float(tied):
    shared_directly(tied)
    quantized = tied.with_name("model_quantized.onnx")
    quantize_model(tied, quantized, "avx2", keep_float=["MatMul"])
    assert "layer" in float_weights(quantized)


def test_metric_may_drop_by_exactly_what_is_allowed():
    check_metric_drop(0.90, 0.89, 0.01)
    check_metric_drop(0.90, 0.95, 0.0)
    check_metric_drop(0.30, 0.31, 0.01, greater_is_better=False)


@pytest.mark.parametrize(
    ("before", "after", "options"),
    [
        (0.90, 0.88, {}),
        (0.30, 0.32, {"greater_is_better": False}),
        (0.90, math.nan, {}),
    ],
)
def test_larger_drop_is_an_error_that_names_what_is_left(before, after, options):
    with pytest.raises(ExportError) as caught:
        check_metric_drop(before, after, 0.01, metric="accuracy", target="avx2", **options)
    message = str(caught.value)
    for knob in ("accuracy", "quantization: null", "arm64 or avx512_vnni", "max_metric_drop", "backend", "keep_float"):
        assert knob in message
