"""Products whose input has a few enormous values stay in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from distil_nlp.export import onnx_logits
from distil_nlp.export.optimum_script import measure, rounded_away
from distil_nlp.export.quantize import quantize_model

IDS = np.random.default_rng(1).integers(1, 8, size=(4, 64))
IDS[0, 0] = 0
BATCH = {"input_ids": IDS}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Two products of embeddings and weights; in the second one embedding is 20,000 times as large as the others."""
    dice = np.random.default_rng(0)
    plain, wild = (dice.normal(size=(8, 16)).astype(np.float32) for _ in range(2))
    wild[0, 3] = 20_000
    weights = {"plain": plain, "wild": wild}
    weights |= {f"{name}_weight": dice.normal(size=(16, 4)).astype(np.float32) for name in ("plain", "wild")}
    nodes = []
    for name in ("plain", "wild"):
        nodes.append(helper.make_node("Gather", [name, "input_ids"], [f"{name}_rows"], name=f"{name}_gather"))
        nodes.append(
            helper.make_node("MatMul", [f"{name}_rows", f"{name}_weight"], [f"{name}_out"], name=f"{name}_product")
        )
    nodes.append(helper.make_node("Concat", ["plain_out", "wild_out"], ["logits"], axis=-1))
    inputs = [helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["batch", "tokens"])]
    outputs = [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", "tokens", 8])]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    made = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_what_is_measured_is_what_numpy_measures(graph: Path) -> None:
    tables = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(graph).graph.initializer}
    found = measure(graph, ["plain_rows", "wild_rows"], BATCH)
    for name in ("plain", "wild"):
        rows = tables[name][BATCH["input_ids"]]
        assert found[f"{name}_rows"] == pytest.approx((rows.max(), rows.min(), np.abs(rows).mean()), rel=1e-5)
    assert [path.name for path in graph.parent.iterdir()] == ["model.onnx"]


def test_the_product_with_outliers_is_found_where_a_sample_shows_them(graph: Path) -> None:
    assert rounded_away(graph, BATCH) == ["wild_product"]
    assert rounded_away(graph, {"input_ids": BATCH["input_ids"][1:]}) == []


def test_it_stays_in_float32_and_nothing_is_rounded_away(graph: Path, tmp_path: Path) -> None:
    quantized = {name: tmp_path / f"{name}.onnx" for name in ("without", "with")}
    quantize_model(graph, quantized["without"], "avx2", ["Gather"])
    quantize_model(graph, quantized["with"], "avx2", ["Gather"], sample=BATCH)
    kinds = {name: [node.op_type for node in onnx.load(path).graph.node] for name, path in quantized.items()}
    assert kinds["without"].count("MatMulInteger") == 2
    assert (kinds["with"].count("MatMulInteger"), kinds["with"].count("MatMul")) == (1, 1)
    expected = onnx_logits(graph, [BATCH])[0]["logits"]
    errors = {name: np.abs(onnx_logits(path, [BATCH])[0]["logits"] - expected)[1:] for name, path in quantized.items()}
    assert errors["without"].max() > 1  # of rows without an outlier
    assert errors["with"].max() < 0.2
