"""The layers of GPT-2 are Gemm nodes, which onnxruntime makes a MatMul and an Add of before it quantizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from distil_nlp.export import onnx_logits
from distil_nlp.export.optimum_script import rounded_away
from distil_nlp.export.quantize import quantize_model

BATCH = {"input_ids": np.random.default_rng(1).integers(1, 8, size=(4, 16))}
BATCH["input_ids"][0, 0] = 0
WIDTH = 16


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Embeddings of two tables, flattened, each through a layer; a row of one table is 20,000 times as large."""
    dice = np.random.default_rng(0)
    weights = {"rows": np.array([-1, WIDTH], dtype=np.int64)}
    nodes = []
    for name in ("plain", "wild"):
        weights[name] = dice.normal(size=(8, WIDTH)).astype(np.float32)
        weights[f"{name}_weight"] = dice.normal(size=(WIDTH, 4)).astype(np.float32)
        weights[f"{name}_bias"] = dice.normal(size=4).astype(np.float32)
        nodes += [
            helper.make_node("Gather", [name, "input_ids"], [f"{name}_found"], name=f"{name}_gather"),
            helper.make_node("Reshape", [f"{name}_found", "rows"], [f"{name}_flat"]),
            helper.make_node(
                "Gemm", [f"{name}_flat", f"{name}_weight", f"{name}_bias"], [f"{name}_out"], name=f"{name}_layer"
            ),
        ]
    weights["wild"][0, 3] = 20_000
    nodes.append(helper.make_node("Concat", ["plain_out", "wild_out"], ["logits"], axis=-1))
    inputs = [helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["batch", "tokens"])]
    outputs = [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["rows_in_all", 8])]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    made = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_a_gemm_with_outliers_stays_in_float32_and_nothing_is_rounded_away(graph: Path, tmp_path: Path) -> None:
    assert rounded_away(graph, BATCH) == ["wild_layer_MatMul"]
    quantized = tmp_path / "quantized.onnx"
    quantize_model(graph, quantized, "avx2", ["Gather"], sample=BATCH)
    kinds = [node.op_type for node in onnx.load(quantized).graph.node]
    assert (kinds.count("MatMulInteger"), kinds.count("MatMul")) == (1, 1)
    expected, got = (onnx_logits(path, [BATCH])[0]["logits"] for path in (graph, quantized))
    assert np.abs(got - expected)[1:].max() < 0.2  # of tokens without an outlier
