"""Exports and quantizes with Optimum: run by path in the Optimum environment, without distil_nlp.

Its one argument is JSON: ``model_dir``, ``output_dir``, ``task``, ``parts`` (names of the graphs that make the model),
``target`` (or null), ``keep_float`` and ``sample`` (an ``.npz`` file with a real batch).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import onnxruntime

MERGED = "decoder_model_merged"
PIECES = ("decoder_model", "decoder_with_past_model")  # it is made of: the first token's graph, and the others'


def main() -> None:
    """Writes a graph for each part and, for a target, its quantized one."""
    import numpy as np

    job = json.loads(sys.argv[1])
    output_dir = Path(job["output_dir"])
    export(job["model_dir"], output_dir, job["task"])
    if job["target"]:
        quantize_parts(output_dir, job["parts"], job["target"], job["keep_float"], dict(np.load(job["sample"])))


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


def quantize_parts(
    folder: Path, parts: list[str], target: str, keep_float: list[str], sample: dict[str, np.ndarray]
) -> None:
    """Quantizes a model's graphs; of a merged decoder its pieces, which are merged again.

    So weights stay shared by both pieces. In the second piece the same products stay in float32 as in the first.
    """
    in_float: list[str] = []
    for name in (piece for part in parts for piece in (PIECES if part == MERGED else (part,))):
        path = folder / f"{name}.onnx"
        make_weights_direct(path)
        if name != PIECES[1]:
            in_float = rounded_away(path, sample)
        quantize(path, target, keep_float, in_float)
        if name == "encoder_model":
            sample = read_by_decoder(path, sample)
    if MERGED in parts:
        from optimum.onnx import merge_decoders

        quantized = [folder / f"{name}_quantized.onnx" for name in PIECES]
        merge_decoders(*quantized, save_path=folder / f"{MERGED}_quantized.onnx", strict=False)


def quantize(onnx_path: Path, target: str, keep_float: list[str], in_float: list[str]) -> None:
    """Quantizes every operator that has int8 weights, the embedding among them, but for some nodes."""
    import onnx
    from onnxruntime.quantization.registry import IntegerOpsRegistry
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    graph = onnx.load(onnx_path, load_external_data=False).graph
    config = getattr(AutoQuantizationConfig, target)(
        is_static=False,
        per_channel=True,
        operators_to_quantize=[name for name in IntegerOpsRegistry if name not in keep_float],
        nodes_to_exclude=[*products_of_activations(graph), *in_float],
    )
    ORTQuantizer.from_pretrained(onnx_path.parent, file_name=onnx_path.name).quantize(config, save_dir=onnx_path.parent)
    drop_unused(onnx_path.with_name(f"{onnx_path.stem}_quantized.onnx"))


def read_by_decoder(encoder: Path, sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns what a decoder reads of a batch: its own tokens, and the states that an encoder's graph gives."""
    session = open_session(encoder)
    (states,) = session.run(["last_hidden_state"], {name: sample[name] for name in ("input_ids", "attention_mask")})
    return {
        "input_ids": sample["decoder_input_ids"],
        "encoder_hidden_states": states,
        "encoder_attention_mask": sample["attention_mask"],
    }


def make_weights_direct(onnx_path: Path) -> None:
    """Has a graph's nodes read shared weights themselves."""
    import onnx

    model = onnx.load(onnx_path, load_external_data=False)
    read_weights_directly(model.graph)
    onnx.save(model, onnx_path)


def drop_unused(onnx_path: Path) -> None:
    """Drops what quantization leaves behind: float weights that nothing reads, and recorded shapes."""
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel

    model = onnx.load(onnx_path)
    ONNXModel(model).clean_initializers()  # weights that layers share (ALBERT) would stay in float32 as well
    model.graph.ClearField("value_info")
    onnx.save(model, onnx_path)


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
    weights = names_of_weights(graph)
    products = (node for node in graph.node if node.op_type == "MatMul")
    return [node.name for node in products if not weights.intersection(node.input)]


def names_of_weights(graph: onnx.GraphProto) -> set[str]:
    """Returns the values in a graph that do not depend on its inputs, transposed ones among them."""
    weights = {tensor.name for tensor in graph.initializer}
    for node in graph.node:  # in topological order
        if node.op_type == "Constant" or (node.op_type == "Transpose" and node.input[0] in weights):
            weights.update(node.output)
    return weights


def rounded_away(onnx_path: Path, sample: dict[str, np.ndarray]) -> list[str]:
    """Returns the products by a weight of whose input quantization would leave nothing but a few outliers.

    A tensor's range is cut into 255 steps, and here one step is larger than the tensor's mean magnitude. Decoders have
    such tensors: a few values are thousands of times as large as the others (Sun et al. 2024, arXiv:2402.17762).
    A Gemm (GPT-2's layers) has the name of the MatMul that onnxruntime makes of it before it quantizes.
    """
    import onnx

    graph = onnx.load(onnx_path, load_external_data=False).graph
    weights = names_of_weights(graph)
    endings = {"MatMul": "", "Gemm": "_MatMul"}
    products = [node for node in graph.node if node.op_type in endings and node.input[1] in weights]
    tensors = list(dict.fromkeys(node.input[0] for node in products if node.input[0] not in weights))
    measured = measure(onnx_path, tensors, sample)
    ruined = {name for name, (largest, smallest, mean) in measured.items() if largest - smallest > 255 * mean}
    return [node.name + endings[node.op_type] for node in products if node.input[0] in ruined]


def measure(
    onnx_path: Path, tensors: list[str], sample: dict[str, np.ndarray]
) -> dict[str, tuple[float, float, float]]:
    """Returns the largest value, the smallest and the mean magnitude of values within a graph, on a sample."""
    import onnx
    from onnx.helper import make_node, make_tensor_value_info

    model = onnx.load(onnx_path, load_external_data=False)
    wanted = [f"{name}/{part}" for name in tensors for part in ("largest", "smallest", "mean")]
    for name in tensors:
        model.graph.node.append(make_node("ReduceMax", [name], [f"{name}/largest"], keepdims=0))
        model.graph.node.append(make_node("ReduceMin", [name], [f"{name}/smallest"], keepdims=0))
        model.graph.node.append(make_node("Abs", [name], [f"{name}/magnitude"]))
        model.graph.node.append(make_node("ReduceMean", [f"{name}/magnitude"], [f"{name}/mean"], keepdims=0))
    model.graph.output.extend(make_tensor_value_info(name, onnx.TensorProto.FLOAT, []) for name in wanted)
    probe = onnx_path.with_name("probe.onnx")  # beside its weights, where these are in a file of their own
    onnx.save(model, probe)
    try:
        session = open_session(probe)
        taken = {value.name for value in session.get_inputs()}
        feeds = {name: value for name, value in sample.items() if name in taken}
        values = session.run(wanted, feeds | empty_past(session, len(sample["input_ids"])))
    finally:
        probe.unlink()
    return dict(zip(tensors, zip(values[::3], values[1::3], values[2::3], strict=True), strict=True))


def open_session(onnx_path: Path) -> onnxruntime.InferenceSession:
    """Opens a graph on the CPU, quietly."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(onnx_path), options, providers=["CPUExecutionProvider"])


def empty_past(session: onnxruntime.InferenceSession, rows: int) -> dict[str, np.ndarray]:
    """Returns keys and values of no tokens, for each input that a graph has for them; nothing for any other graph."""
    import numpy as np

    return {
        value.name: np.zeros([rows, *(size if isinstance(size, int) else 0 for size in value.shape[1:])], np.float32)
        for value in session.get_inputs()
        if value.name.startswith("past_key_values.")
    }


if __name__ == "__main__":
    main()
