"""Dynamic int8 quantization, and the gate on what it costs in quality."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distil_nlp.errors import ExportError, near_match
from distil_nlp.export.batches import Batch, complete_batch
from distil_nlp.export.job import TARGETS
from distil_nlp.export.optimum_script import drop_unused, products_of_activations, rounded_away

_ROUNDING = 1e-9  # 0.90 - 0.89 is a little more than 0.01


def quantize_model(
    onnx_path: Path, output_path: Path, target: str, keep_float: Sequence[str] = (), *, sample: Batch | None = None
) -> None:
    """Quantizes weights to int8 and, at run time, activations to uint8; the embedding is quantized too.

    Weights are signed and scaled per output channel. For ``avx2`` they are unsigned, as Optimum has it:
    without VNNI the product of unsigned and signed bytes saturates at 16 bits.

    Args:
        onnx_path: The float32 graph.
        output_path: The file to write.
        target: One of `TARGETS`.
        keep_float: Operator types that stay in float32 (``["Gather"]`` leaves the embedding alone).
        sample: A real batch; products whose input would be rounded away on it stay in float32.

    Raises:
        ExportError: onnxruntime cannot quantize the graph.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.registry import IntegerOpsRegistry

    ruined = [] if sample is None else rounded_away(onnx_path, complete_batch(sample, ()))
    model = onnx.load(onnx_path)
    model.graph.ClearField("value_info")  # stale after optimization, and shape inference would stop at it
    try:
        quantize_dynamic(
            model,
            output_path,
            op_types_to_quantize=[name for name in IntegerOpsRegistry if name not in keep_float],
            nodes_to_exclude=[*products_of_activations(model.graph), *ruined],
            per_channel=True,
            extra_options={"MatMulConstBOnly": False},  # a head that shares the embedding reads it transposed
            weight_type=QuantType.QUInt8 if target == "avx2" else QuantType.QInt8,
        )
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"Quantize {onnx_path.name} for {target}.",
            f"onnxruntime failed: {error}",
            "Export with quantization: null, or with backend: optimum.",
        ) from error
    drop_unused(output_path)


def check_keep_float(keep_float: Sequence[str]) -> None:
    """Checks the names of operator types that are to stay in float32.

    Raises:
        ExportError: One is not an operator that dynamic quantization would change.
    """
    from onnxruntime.quantization.registry import IntegerOpsRegistry

    for name in keep_float:
        if name not in IntegerOpsRegistry:
            raise ExportError(f"Keep '{name}' in float32.", near_match(name, IntegerOpsRegistry))


def check_metric_drop(
    before: float,
    after: float,
    max_drop: float,
    *,
    metric: str = "metric",
    target: str = "avx512_vnni",
    greater_is_better: bool = True,
) -> None:
    """Refuses a quantized model that is worse than the float model by more than ``max_drop``.

    Raises:
        ExportError: The drop is larger, or the quantized model's metric is not a number.
    """
    drop = before - after if greater_is_better else after - before
    if drop <= max_drop + _ROUNDING:
        return
    others = " or ".join(name for name in TARGETS if name != target)
    raise ExportError(
        f"Quantize to int8 with at most {max_drop:g} lost in {metric} (export.max_metric_drop).",
        f"{metric} went from {before:.4f} to {after:.4f}, a loss of {drop:.4f}.",
        "What is left to turn: export.quantization: null ships float32; "
        f"export.target: {others} fits another processor (avx512_vnni weights saturate without VNNI); "
        "the other export.backend; a larger export.max_metric_drop; and in Python, "
        "export_onnx(keep_float=['Gather']) leaves the embedding in float32, ['MatMul'] the layers.",
    )
