"""What an export backend is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distil_nlp.export.batches import Batch
from distil_nlp.export.graphs import Graphs

TARGETS = ("arm64", "avx2", "avx512_vnni")


@dataclass(frozen=True)
class ExportJob:
    """One export, as a backend sees it.

    Args:
        model_dir: The Hugging Face checkpoint folder.
        graphs: The float32 files to write.
        task: The task, named as in ``transformers.pipeline``.
        target: The processor to quantize for, or None for float32 only.
        keep_float: ONNX operator types that stay in float32 in the quantized model.
        sample: One real batch, to trace with and to look at activations.
        progress: Called with one line for each long step.
    """

    model_dir: Path
    graphs: Graphs
    task: str
    target: str | None
    keep_float: Sequence[str]
    sample: Batch
    progress: Callable[[str], None]

    @property
    def native_can(self) -> bool:
        """Whether transformers' exporter could make it: one graph, without a cache of keys and values."""
        return len(self.graphs.parts) == 1 and not self.task.endswith("-with-past")

    @property
    def quantized(self) -> Graphs | None:
        """The int8 files to write, or None."""
        return replace(self.graphs, quantized=True) if self.target else None
