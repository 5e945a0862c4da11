"""An onnxruntime session with a stated number of threads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from distil_nlp.errors import ExportError, MissingExtraError

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime


def make_session(path: Path | str, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Opens an ONNX file on the CPU.

    Args:
        path: The ``.onnx`` file.
        threads: How many threads one operator may use; None leaves it to onnxruntime (every core).

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ExportError: The file is missing, damaged or needs a newer onnxruntime.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "onnx") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: shape warnings of quantized graphs are harmless
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except runtime_errors() as error:
        raise ExportError(
            f"Open the ONNX model {path}.",
            f"onnxruntime cannot load it: {error}",
            "Export it again; if it is a download, check that it is complete.",
        ) from error


def run_session(
    session: onnxruntime.InferenceSession, outputs: list[str], feeds: dict[str, np.ndarray], name: str
) -> list[np.ndarray]:
    """Runs a graph.

    Raises:
        ExportError: It fails on these inputs.
    """
    try:
        return list(session.run(outputs, feeds))
    except runtime_errors() as error:
        shapes = ", ".join(f"{key} {value.shape}" for key, value in feeds.items())
        raise ExportError(
            f"Run {name} on {shapes}.",
            f"It failed: {error}",
            "Give the inputs that the graph asks for; if they are right, export again.",
        ) from error


def runtime_errors() -> tuple[type[Exception], ...]:
    """Returns what onnxruntime raises: its exceptions share no base; a missing input is a ValueError."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoModel,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
        ValueError,
    )
