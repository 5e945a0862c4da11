"""One checkpoint in, one verified ONNX folder out."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distil_nlp.errors import ExportError, MissingExtraError, near_match
from distil_nlp.export.batches import Arrays, Batch
from distil_nlp.export.checkpoint import check_checkpoint, copy_companions, load_checkpoint
from distil_nlp.export.graphs import LAYOUTS, ONE, Graphs, find_graphs
from distil_nlp.export.job import TARGETS, ExportJob
from distil_nlp.export.native import export_with_native
from distil_nlp.export.onnx_model import open_onnx
from distil_nlp.export.optimum import export_with_optimum
from distil_nlp.export.parity import Comparison, compare, torch_forward
from distil_nlp.export.quantize import check_keep_float

BACKENDS: Mapping[str, Callable[[ExportJob], None]] = {
    "native": export_with_native,
    "optimum": export_with_optimum,
}


@dataclass(frozen=True)
class ExportResult:
    """What was exported, and how near it is to the PyTorch model.

    Attributes:
        onnx: The float32 graph, or graphs.
        onnx_int8: The quantized ones, or None.
        max_abs_diff: Largest difference of the float32 model from PyTorch, padding left out.
        int8_max_abs_diff: The same of the quantized model: reported, not a condition.
        int8_agreement: Share of its predictions that are PyTorch's too; None without classes.
        seconds: Time that the export took.
        backend: ``optimum`` or ``native``.
        target: The processor that the quantized model is for, or None.
    """

    onnx: Graphs
    onnx_int8: Graphs | None
    max_abs_diff: float
    int8_max_abs_diff: float | None
    int8_agreement: float | None
    seconds: float
    backend: str
    target: str | None

    @property
    def onnx_size_mb(self) -> float:
        """Size in MB (10^6 bytes), of all graphs that a device needs."""
        return self.onnx.size_mb

    @property
    def onnx_int8_size_mb(self) -> float | None:
        """That of the quantized ones."""
        return self.onnx_int8.size_mb if self.onnx_int8 else None

    def in_words(self) -> str:
        """How near the exports are to the PyTorch model, in one line."""
        int8 = "" if self.int8_max_abs_diff is None else f"; those of int8 by {self.int8_max_abs_diff:.2g}"
        same = "" if self.int8_agreement is None else f", {self.int8_agreement:.1%} of its answers the same"
        return f"outputs differ from PyTorch's by {self.max_abs_diff:.1e} at most{int8}{same}"

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON values; the graphs as lists of file names, so that a report can travel."""
        made = {"onnx": self.onnx, "onnx_int8": self.onnx_int8}
        names = {key: [file.name for file in graphs.files] if graphs else None for key, graphs in made.items()}
        sizes = {"onnx_size_mb": self.onnx_size_mb, "onnx_int8_size_mb": self.onnx_int8_size_mb}
        return asdict(self) | names | sizes


def export_onnx(
    model_dir: Path | str,
    output_dir: Path | str,
    *,
    task: str,
    samples: Sequence[Batch],
    backend: str = "optimum",
    quantization: str | None = "dynamic",
    target: str = "avx512_vnni",
    keep_float: Sequence[str] = (),
    tolerance: float = 1e-4,
    progress: Callable[[str], None] = print,
) -> ExportResult:
    """Exports a checkpoint to ONNX and keeps the result only if it equals PyTorch on real inputs.

    The work is done in a folder beside ``output_dir`` and moved into place at the end: an earlier export
    stays as it was until then, and for good if this one fails.

    Args:
        model_dir: A folder written by ``save_pretrained`` (safetensors and tokenizer).
        output_dir: Gets ``model.onnx`` and ``model_quantized.onnx``, or such a pair for each of several parts
            (``encoder_model``, ``decoder_model_merged``), config and tokenizer.
        task: The task, named as in ``transformers.pipeline``.
        samples: A few real padded batches, int64 ``[batch, tokens]`` arrays as the tokenizer gives them; of
            encoder-decoders with ``labels``, the targets' tokens.
        backend: ``optimum`` (in its own environment) or ``native`` (transformers' exporter).
        quantization: ``dynamic`` for an int8 model beside the float32 one, or None.
        target: The processor to quantize for: ``avx512_vnni``, ``avx2`` or ``arm64``.
        keep_float: ONNX operator types that stay in float32 (``["Gather"]``: the embedding).
        tolerance: Largest difference allowed, as a share of the largest PyTorch output.
        progress: Called with one line for each long step.

    Raises:
        ExportError: The export failed, or is not the same model. Nothing is kept.
    """
    started = time.perf_counter()
    model_dir, output_dir = Path(model_dir).resolve(), Path(output_dir).resolve()
    _check_packages()
    _check_choice("backend", backend, BACKENDS)
    _check_choice("target", target, TARGETS)
    if quantization is not None:
        _check_choice("quantization", quantization, ("dynamic",))
    check_keep_float(keep_float)
    check_checkpoint(model_dir, task)
    _check_samples(samples)
    _check_output(output_dir, model_dir)
    try:
        output_dir.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=f".{output_dir.name}-") as scratch:
            work_dir = Path(scratch, "new")
            work_dir.mkdir()
            goal = target if quantization else None
            sample = max(samples, key=lambda batch: np.size(batch["input_ids"]))
            graphs = Graphs(work_dir, LAYOUTS.get(task, ONE))
            job = ExportJob(model_dir, graphs, task, goal, keep_float, sample, progress)
            BACKENDS[backend](job)
            copy_companions(model_dir, work_dir)
            parity, int8 = _verify(job, samples, tolerance)
            _move_into_place(work_dir, output_dir, Path(scratch, "old"))
    except OSError as error:
        fix = "Make room or choose another folder; nothing was kept."
        raise ExportError(f"Export {model_dir} to {output_dir}.", str(error), fix) from error
    seconds = time.perf_counter() - started
    made = replace(job.graphs, folder=output_dir)
    exported = _result(made, parity, int8, backend=backend, target=goal, seconds=seconds)
    progress(exported.in_words())
    return exported


def _result(onnx: Graphs, parity: Comparison, int8: Comparison | None, **run: Any) -> ExportResult:
    onnx_int8 = replace(onnx, quantized=True) if int8 else None
    return ExportResult(
        onnx=onnx,
        onnx_int8=onnx_int8,
        max_abs_diff=parity.max_abs_diff,
        int8_max_abs_diff=int8.max_abs_diff if int8 else None,
        int8_agreement=int8.agreement if int8 else None,
        **run,
    )


def _check_packages() -> None:
    """Both backends need them: Optimum finds them in the running interpreter's packages."""
    for module in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(module, "onnx")


def _check_choice(name: str, value: str, known: Sequence[str] | Mapping[str, Any]) -> None:
    if value not in known:
        raise ExportError(f"Export with {name} '{value}'.", near_match(value, known))


def _check_samples(samples: Any) -> None:
    asked, fix = "Export to ONNX.", 'Give a list of some: [tokenizer(texts, padding=True, return_tensors="np")].'
    if not isinstance(samples, list | tuple) or not all(isinstance(batch, Mapping) for batch in samples):
        raise ExportError(asked, "`samples` is not a list of padded batches.", fix)
    if not samples:
        raise ExportError(asked, "There are no sample batches.", fix)


def _check_output(output_dir: Path, model_dir: Path) -> None:
    """Refuses to replace anything but an empty folder or an earlier export."""
    asked = f"Export to {output_dir}."
    fix = "Choose a new folder, or that of an earlier export."
    if output_dir == model_dir or output_dir in model_dir.parents:
        raise ExportError(asked, "The model to export is in it, and the folder is replaced whole.", fix)
    if not output_dir.exists() or find_graphs(output_dir) or find_graphs(output_dir, quantized=True):
        return
    if not output_dir.is_dir() or any(output_dir.iterdir()):
        raise ExportError(asked, "It exists and is not an earlier export.", fix)


def _verify(job: ExportJob, samples: Sequence[Batch], tolerance: float) -> tuple[Comparison, Comparison | None]:
    """Compares both exports with PyTorch; the float32 one must be the same model, with a cache and without."""
    exported = open_onnx(job.graphs)
    batches = [exported.complete(batch) for batch in samples]
    right = torch_forward(load_checkpoint(job.model_dir, job.task))

    def compared(forward: Callable[[Batch], Arrays]) -> Comparison:
        return compare(map(right, batches), map(forward, batches), batches)

    parity = compared(exported)
    if exported.decoder.cached:
        parity = parity.worse_of(compared(exported.in_steps))
    if not parity.within(tolerance):
        raise ExportError(
            f"Export {job.model_dir} to ONNX.",
            f"It is not the same model: its outputs differ from PyTorch's by {parity.max_abs_diff:.1e}; "
            f"{tolerance:g} of the largest output ({parity.largest:.3g}) is allowed.",
            "Nothing was kept." + ("" if job.beyond_native else " Try the other backend (optimum, native)."),
        )
    return parity, compared(open_onnx(job.quantized)) if job.quantized else None


def _move_into_place(work_dir: Path, output_dir: Path, old: Path) -> None:
    """Replaces the earlier export, or leaves it: it is away only between two renames."""
    if not output_dir.exists():
        os.replace(work_dir, output_dir)
        return
    try:
        os.replace(output_dir, old)
        os.replace(work_dir, output_dir)
    finally:
        if not output_dir.exists():
            os.replace(old, output_dir)
