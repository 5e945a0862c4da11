"""The native backend: transformers' own ONNX exporter, in this process."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from distil_nlp.errors import ExportError, MissingExtraError
from distil_nlp.export.batches import Batch, complete_batch
from distil_nlp.export.checkpoint import load_checkpoint
from distil_nlp.export.job import ExportJob
from distil_nlp.export.parity import model_inputs
from distil_nlp.export.quantize import quantize_model

_SINGLE_FILE_LIMIT = 2_000_000_000  # bytes: a protobuf message ends at 2 GiB


def export_with_native(job: ExportJob) -> None:
    """Writes the job's ONNX files with ``transformers.exporters``.

    The float32 graph holds onnxruntime's fused operators. The quantized model is made from the graph without
    them: onnxruntime then joins int8 matrix products and biases itself, which is faster.

    Raises:
        ExportError: This transformers has no exporter, or the model needs several graphs, cannot be traced or is too
            large.
    """
    if job.beyond_native:
        asked = f"Export {job.model_dir} for {job.task} with backend: native."
        raise ExportError(asked, job.beyond_native, "Export with backend: optimum.")
    model = load_checkpoint(job.model_dir, job.task)
    model.config.use_cache = False
    if model.num_parameters() * 4 > _SINGLE_FILE_LIMIT:
        raise ExportError(
            f"Export {job.model_dir} with backend: native.",
            f"Its {model.num_parameters():,} parameters do not fit one ONNX file of 2 GB.",
            "Export with backend: optimum.",
        )
    job.progress("Exporting with transformers ...")
    (fused,), plain = job.graphs.files, job.graphs.folder / "plain.onnx"
    # A decoder must be told where prompts begin that are padded in front: some count positions by themselves.
    named = ("position_ids",) if job.task == "text-generation" else ()
    sample = model_inputs(model, complete_batch(job.sample, named))
    _trace(model, sample, fused, fusions="cpu")
    if job.target and job.quantized:
        job.progress(f"Quantizing for {job.target} ...")
        _trace(model, sample, plain, fusions=None)
        quantize_model(plain, job.quantized.files[0], job.target, job.keep_float, sample=sample)
        plain.unlink()


def _trace(model: PreTrainedModel, sample: Batch, path: Path, *, fusions: str | None) -> None:
    try:
        from transformers.exporters.exporter_onnx import OnnxExporter
    except ImportError as error:
        raise ExportError(
            "Export with backend: native.",
            f"transformers {transformers.__version__} has no ONNX exporter.",
            "Install a newer transformers 5 (pip install -U 'transformers<6'), or use backend: optimum.",
        ) from error
    try:
        import onnx_ir
        from onnx_ir.passes.common import ClearMetadataAndDocStringPass
    except ImportError as error:
        raise MissingExtraError("onnxscript", "onnx") from error
    settings = OnnxExporter.config_class
    options: dict[str, Any] = {"dynamic": True}
    if "ort_fusions" in {field.name for field in dataclasses.fields(settings)}:
        options["ort_fusions"] = fusions
    try:
        with _quiet():
            exported = OnnxExporter().export(model, _example(sample), config=settings(**options))
            # It notes for each node where this machine keeps the code that made it.
            ClearMetadataAndDocStringPass()(exported.program)
            onnx_ir.save(exported.program, path)
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
        raise ExportError(
            f"Export a {model.config.model_type} model with backend: native.",
            f"transformers' exporter failed: {str(error).strip().splitlines()[0] if str(error) else error!r}",
            "Export with backend: optimum.",
        ) from error


def _example(sample: Batch) -> dict[str, Any]:
    """Makes a batch of two rows and at least three columns: equal sizes would be traced as one."""
    example = {}
    for name, value in sample.items():
        array = np.asarray(value, dtype=np.int64)
        example[name] = torch.from_numpy(np.tile(array, (2, 3))[:2, : max(3, array.shape[1])])
    return example


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Holds back the exporter's own progress, and its warnings about versions and missing operators."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "transformers")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
