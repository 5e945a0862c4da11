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
    def beyond_native(self) -> str | None:
        """Why transformers' exporter cannot make it, or None."""
        if len(self.graphs.parts) > 1:
            return f"It takes {len(self.graphs.parts)} graphs ({', '.join(self.graphs.parts)}), and native makes one."
        if self.task.endswith("-with-past"):
            return "It keeps keys and values (a recipe's export.cache), and native makes graphs that do not."
        return None

    @property
    def quantized(self) -> Graphs | None:
        """The int8 files to write, or None."""
        return replace(self.graphs, quantized=True) if self.target else None
