"""The Optimum backend: export and quantization in the Optimum environment, as a subprocess."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.torch import save_file

from distil_nlp.errors import ExportError
from distil_nlp.export.batches import Batch, complete_batch, decoder_inputs
from distil_nlp.export.environment import ensure_environment, last_lines, offline_variables, python_of
from distil_nlp.export.job import ExportJob
from distil_nlp.export.transformers_4 import to_transformers_4

__all__ = ["ensure_environment", "export_with_optimum"]

_SCRIPT = Path(__file__).with_name("optimum_script.py")


def export_with_optimum(job: ExportJob) -> None:
    """Writes the job's ONNX files with Optimum, from a copy of the checkpoint for transformers 4.

    Raises:
        ExportError: The environment cannot be made, or Optimum fails.
    """
    sample = complete_batch(_read_by_all(job), ("position_ids", "token_type_ids"))
    environment = ensure_environment(job.progress)
    job.progress(f"Exporting with Optimum{f', int8 for {job.target}' if job.target else ''} ...")
    with tempfile.TemporaryDirectory(dir=job.graphs.folder, prefix=".optimum-") as scratch:
        staged, written = Path(scratch, "checkpoint"), Path(scratch, "onnx")
        _stage(job.model_dir, staged)
        np.savez(Path(scratch, "sample.npz"), **sample)  # type: ignore[arg-type]
        _run(environment, job, staged, written)
        _keep(job, written)


def _read_by_all(job: ExportJob) -> Batch:
    """The job's sample, with what is read by a decoder that is a graph of its own."""
    return decoder_inputs(job.model_dir)(job.sample) if len(job.graphs.parts) > 1 else job.sample


def _keep(job: ExportJob, written: Path) -> None:
    """Moves the graphs that make the model out of all that Optimum has written.

    Raises:
        ExportError: One of them is not there.
    """
    for graphs in filter(None, (job.graphs, job.quantized)):
        made = replace(graphs, folder=written)
        if missing := [file.name for file in made.files if not file.is_file()]:
            found = ", ".join(sorted(path.name for path in written.iterdir()))
            raise ExportError(
                f"Export {job.model_dir} for {job.task} with Optimum.",
                f"It wrote no {' and no '.join(missing)}, but {found}.",
                "Export without a cache of keys and values (a recipe's export.cache: false).",
            )
        for path in made.all_files:
            shutil.move(path, graphs.folder / path.name)


def _stage(model_dir: Path, staged: Path) -> None:
    """Translates the config and links the weights: Optimum never sees anything else of the folder."""
    staged.mkdir()
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    translated = to_transformers_4(config)
    (staged / "config.json").write_text(json.dumps(translated, indent=2), encoding="utf-8")
    for path in [*model_dir.glob("*.safetensors"), *model_dir.glob("*.safetensors.index.json")]:
        try:
            os.symlink(path.resolve(), staged / path.name)
        except OSError:  # Windows, without the right to link
            shutil.copyfile(path, staged / path.name)
    if config.get("tie_word_embeddings") and not translated["tie_word_embeddings"]:
        _add_head(staged)


def _add_head(staged: Path) -> None:
    """Adds the head of a T5 that shares its embedding, where its settings are those of one that does not."""
    holders: dict[str, Path] = {}
    for path in staged.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            holders |= dict.fromkeys(file.keys(), path)
    if "lm_head.weight" in holders:
        return
    with safe_open(holders["shared.weight"], "pt") as file:
        save_file({"lm_head.weight": file.get_tensor("shared.weight")}, staged / "head.safetensors", {"format": "pt"})
    names = {name: path.name for name, path in holders.items()}
    if (whole := staged / "model.safetensors").exists():  # would be read alone
        names = dict.fromkeys(names, whole.rename(staged / "body.safetensors").name)
    index = {"metadata": {}, "weight_map": {**names, "lm_head.weight": "head.safetensors"}}
    (staged / "model.safetensors.index.json").unlink(missing_ok=True)
    (staged / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _run(environment: Path, job: ExportJob, staged: Path, written: Path) -> None:
    request = {
        "model_dir": str(staged),
        "output_dir": str(written),
        "task": job.task,
        "parts": job.graphs.parts,
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
            f"Try {'' if job.beyond_native else 'backend: native, or '}a task and model type that Optimum lists.",
        )
