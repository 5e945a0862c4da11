"""Exports and quantizes with Optimum: run by path in the Optimum environment, without distil_nlp.

Its one argument is JSON: ``model_dir``, ``output_dir``, ``task``, ``target`` (or null) and ``keep_float``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def main() -> None:
    """Writes ``model.onnx`` and, for a target, ``model_quantized.onnx``."""
    job = json.loads(sys.argv[1])
    output_dir = Path(job["output_dir"])
    export(job["model_dir"], output_dir, job["task"])
    if job["target"]:
        quantize(output_dir / "model.onnx", job["target"], job["keep_float"])


def export(model_dir: str, output_dir: Path, task: str) -> None:
    """Exports in float32; distil_nlp compares the result with PyTorch itself, on real inputs."""
    from optimum.exporters.onnx import main_export

    main_export(
        model_dir,
        output=output_dir,
        task=task,
        library_name="transformers",
        local_files_only=True,
        trust_remote_code=False,
        do_validation=False,
    )


def quantize(onnx_path: Path, target: str, keep_float: list[str]) -> None:
    """Quantizes every operator that has int8 weights, the embedding among them."""
    import onnx
    from onnxruntime.quantization.registry import IntegerOpsRegistry
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    model = onnx.load(onnx_path, load_external_data=False)
    read_weights_directly(model.graph)
    onnx.save(model, onnx_path)
    config = getattr(AutoQuantizationConfig, target)(
        is_static=False,
        per_channel=True,
        operators_to_quantize=[name for name in IntegerOpsRegistry if name not in keep_float],
        nodes_to_exclude=products_of_activations(model.graph),
    )
    ORTQuantizer.from_pretrained(onnx_path.parent, file_name=onnx_path.name).quantize(config, save_dir=onnx_path.parent)


def read_weights_directly(graph: onnx.GraphProto) -> None:
    """Removes the Identity nodes through which layers share a weight (ALBERT): they hide it."""
    weights = {tensor.name for tensor in graph.initializer}
    aliases = [node for node in graph.node if node.op_type == "Identity" and node.input[0] in weights]
    shared = {node.output[0]: node.input[0] for node in aliases}
    for node in aliases:
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [shared.get(name, name) for name in node.input]


def products_of_activations(graph: onnx.GraphProto) -> list[str]:
    """Returns the MatMul nodes without a weight: in int8 they save no byte, and are slower and less exact."""
    weights = {tensor.name for tensor in graph.initializer}
    for node in graph.node:  # in topological order
        if node.op_type == "Constant" or (node.op_type == "Transpose" and node.input[0] in weights):
            weights.update(node.output)
    products = (node for node in graph.node if node.op_type == "MatMul")
    return [node.name for node in products if not weights.intersection(node.input)]


if __name__ == "__main__":
    main()
