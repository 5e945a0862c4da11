"""What an export backend is given, and the names of the files that it writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MODEL = "model.onnx"
QUANTIZED = "model_quantized.onnx"
TARGETS = ("arm64", "avx2", "avx512_vnni")

Batch = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class ExportJob:
    """One export, as a backend sees it.

    Args:
        model_dir: The Hugging Face checkpoint folder.
        work_dir: Where ``model.onnx``, and ``model_quantized.onnx`` if there is a target, are written.
        task: The task, named as in ``transformers.pipeline``.
        target: The processor to quantize for, or None for float32 only.
        keep_float: ONNX operator types that stay in float32 in the quantized model.
        sample: One real batch, to trace with and to look at activations.
        progress: Called with one line for each long step.
    """

    model_dir: Path
    work_dir: Path
    task: str
    target: str | None
    keep_float: Sequence[str]
    sample: Batch
    progress: Callable[[str], None]
