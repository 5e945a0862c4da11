"""The Optimum backend: export and quantization in the Optimum environment, as a subprocess."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from distil_nlp.errors import ExportError
from distil_nlp.export.environment import ensure_environment, last_lines, offline_variables, python_of
from distil_nlp.export.job import MODEL, QUANTIZED, ExportJob
from distil_nlp.export.parity import complete_batch
from distil_nlp.export.rope import to_transformers_4

__all__ = ["ensure_environment", "export_with_optimum"]

_SCRIPT = Path(__file__).with_name("optimum_script.py")


def export_with_optimum(job: ExportJob) -> None:
    """Writes the job's ONNX files with Optimum, from a copy of the checkpoint for transformers 4.

    Raises:
        ExportError: The environment cannot be made, or Optimum fails.
    """
    environment = ensure_environment(job.progress)
    job.progress(f"Exporting with Optimum{f', int8 for {job.target}' if job.target else ''} ...")
    with tempfile.TemporaryDirectory(dir=job.work_dir, prefix=".optimum-") as scratch:
        staged, written = Path(scratch, "checkpoint"), Path(scratch, "onnx")
        _stage(job.model_dir, staged)
        sample: dict[str, Any] = dict(complete_batch(job.sample, ("position_ids", "token_type_ids")))
        np.savez(Path(scratch, "sample.npz"), **sample)
        _run(environment, job, staged, written)
        for path in [*written.glob(f"{MODEL}*"), *written.glob(QUANTIZED)]:
            shutil.move(path, job.work_dir / path.name)


def _stage(model_dir: Path, staged: Path) -> None:
    """Translates the config and links the weights: Optimum never sees anything else of the folder."""
    staged.mkdir()
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    (staged / "config.json").write_text(json.dumps(to_transformers_4(config), indent=2), encoding="utf-8")
    for path in [*model_dir.glob("*.safetensors"), *model_dir.glob("*.safetensors.index.json")]:
        try:
            os.symlink(path.resolve(), staged / path.name)
        except OSError:  # Windows, without the right to link
            shutil.copyfile(path, staged / path.name)


def _run(environment: Path, job: ExportJob, staged: Path, written: Path) -> None:
    request = {
        "model_dir": str(staged),
        "output_dir": str(written),
        "task": job.task,
        "target": job.target,
        "keep_float": list(job.keep_float),
        "sample": str(written.with_name("sample.npz")),
    }
    # -I: neither PYTHONPATH nor this folder, whose optimum.py would hide Optimum itself, is searched.
    command = [str(python_of(environment)), "-I", str(_SCRIPT), json.dumps(request)]
    run = subprocess.run(command, env=offline_variables(), capture_output=True, text=True, errors="replace")
    if run.returncode:
        found = last_lines(run.stderr) or "It said nothing."
        if run.returncode < 0:
            found = f"It was ended by signal {-run.returncode} (9 is often a lack of memory)."
        raise ExportError(
            f"Export {job.model_dir} for {job.task} with Optimum.",
            f"Optimum failed:\n{found}",
            "Try backend: native, or a task and model type that Optimum lists.",
        )
