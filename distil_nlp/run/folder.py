"""A run's folder: what each finished stage has left there, written whole or not at all."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distil_nlp.data.tasks import Outputs
from distil_nlp.errors import DistilError, RecipeError
from distil_nlp.evaluation.efficiency import available_threads
from distil_nlp.recipe import Recipe
from distil_nlp.students import merge_adapters

STAGES = ("teach", "distill", "control", "evaluate", "export", "bench", "report")
# The first stage whose result a section of the recipe decides, or a key of it.
FIRST_STAGE = {
    **dict.fromkeys(("task", "teacher", "seed"), "teach"),
    **dict.fromkeys(("teacher.store", "teacher.quantization"), "distill"),
    **dict.fromkeys((f"teacher.ensemble.{key}" for key in ("weights", "by_confidence", "average")), "distill"),
    **dict.fromkeys(("student", "stages", "objectives", "weighting", "training"), "distill"),
    **dict.fromkeys(("task.unlabelled", "task.augment"), "distill"),
    "control": "control",
    "evaluation": "evaluate",
    "export": "export",
    "bench": "bench",
    "name": "report",
}
MODELS = {"student": "distill", "control_pretrained": "control", "control_same_start": "control"}  # beside teachers
PACKAGES = ("torch", "transformers", "datasets", "accelerate", "evaluate", "onnx", "onnxruntime", "numpy")


class RunFolder:
    """The files of one run.

    Args:
        path: The folder; made when something is first written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.onnx = path / "onnx"
        self._lock = filelock.FileLock(path / ".lock", timeout=0, thread_local=False, is_singleton=True)

    def check_start(self, recipe: Recipe, *, resume: bool) -> None:
        """Checks that a run can start in the folder, or go on with what the same recipe has left there.

        Raises:
            RecipeError: if nothing can be written there, or if the folder holds a run and ``resume`` is not set, or one
                of another recipe.
        """
        self._check_writable()
        earlier = self._earlier()
        if earlier is None:
            return
        if not resume:
            raise RecipeError(
                f"A run was to start in {self.path}.",
                "There is a run in it already.",
                "Add --resume to go on with it (finished stages are kept), or give another --output-dir.",
            )
        if differing := _differences(earlier, recipe):
            raise RecipeError(
                f"The run in {self.path} was to go on.",
                f"It was started with another recipe; these differ: {', '.join(differing)}.",
                "Go on with the same recipe and overrides, or give another --output-dir.",
            )

    def describe(self, recipe: Recipe) -> None:
        """Writes the resolved recipe and the environment; what another recipe has left behind is forgotten.

        The folder is this process's own from then on, for as long as the object lives.

        Raises:
            RecipeError: if nothing can be written there, another process does, or what is there is of nobody knows
                which recipe.
        """
        self._check_writable()
        earlier = self._earlier() or recipe
        self.path.mkdir(parents=True, exist_ok=True)
        self._hold()
        if changed := _differences(earlier, recipe):
            first = min(STAGES.index(_first_stage(key)) for key in changed)
            self.forget_from(STAGES[first])
            students = [stage.model for stage in earlier.distillation]
            made = dict.fromkeys(earlier.teachers, "teach") | MODELS | dict.fromkeys(students, "distill")
            self._set_aside(made, STAGES[first:])
        recipe.save(self.path / "recipe.yaml")
        write_json(self.path / "environment.json", environment(recipe.seed))

    def _check_writable(self) -> None:
        """Looks at the folder, or at the nearest above it that there is."""
        place = self.path.absolute()
        nearest = next(folder for folder in (place, *place.parents) if os.path.lexists(folder))
        if not (os.path.isdir(nearest) and os.access(nearest, os.W_OK | os.X_OK)):
            raise RecipeError(
                f"A run was to write to {self.path}.",
                f"{nearest} is {'not writable' if os.path.isdir(nearest) else 'no folder'}.",
                "Give another --output-dir.",
            )

    def _hold(self) -> None:
        """Keeps other processes out."""
        try:
            if not self._lock.is_locked:
                self._lock.acquire()
        except filelock.Timeout as error:
            raise RecipeError(
                f"A run was to write to {self.path}.",
                "Another process is at work there.",
                "Wait until it has ended, or give another --output-dir.",
            ) from error

    def _earlier(self) -> Recipe | None:
        """The recipe of the run in the folder; None where there is no run."""
        saved = self.path / "recipe.yaml"
        if saved.is_file():
            return Recipe.load(saved)
        if any((self.path / "results").glob("*.json")):
            raise RecipeError(
                f"A run was to write to {self.path}.",
                "It holds results, and no recipe.yaml that says of what.",
                "Put the recipe.yaml back that they are of, or give another --output-dir.",
            )
        return None

    def has(self, stage: str) -> bool:
        """Whether a stage has finished."""
        return (self.path / "results" / f"{stage}.json").is_file()

    def result(self, stage: str) -> dict[str, Any]:
        """What a finished stage found out.

        Raises:
            DistilError: if it has not finished.
        """
        if not self.has(stage):
            raise DistilError(
                f"The result of the stage '{stage}' is needed.",
                f"{self.path} has none.",
                f"Run it first: distil-nlp {stage} RECIPE --output-dir {self.path}",
            )
        found: dict[str, Any] = json.loads((self.path / "results" / f"{stage}.json").read_text(encoding="utf-8"))
        return found

    def finish(self, stage: str, result: dict[str, Any]) -> None:
        """Records what a stage found out, which marks it finished."""
        write_json(self.path / "results" / f"{stage}.json", result)

    def forget(self, stage: str) -> None:
        """Marks a stage as not finished."""
        (self.path / "results" / f"{stage}.json").unlink(missing_ok=True)

    def forget_from(self, stage: str) -> None:
        """Marks a stage and all that follow it as not finished: their results would not belong together."""
        for later in STAGES[STAGES.index(stage) :]:
            self.forget(later)

    def _set_aside(self, models: Mapping[str, str], stages: tuple[str, ...]) -> None:
        """Keeps the models of another recipe, but not under the names by which stages find them."""
        for name, stage in models.items():
            if stage in stages:
                shutil.rmtree(self.checkpoints / name, ignore_errors=True)
                self.forget(name)
                if (self.path / name).is_dir():
                    shutil.rmtree(self.path / f"{name}.outdated", ignore_errors=True)
                    os.replace(self.path / name, self.path / f"{name}.outdated")

    def save_model(
        self,
        name: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        companions: Mapping[str, Any] | None = None,
    ) -> Path:
        """Saves a checkpoint; an earlier one of that name stays until the new one is whole.

        Args:
            name: The model's name in the run.
            model: The model.
            tokenizer: Its tokenizer.
            companions: JSON files, by path, that go with it (:meth:`~distil_nlp.data.tasks.Task.companions`).
        """
        folder, partial = self.path / name, self.path / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        merge_adapters(model).save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        for path, value in (companions or {}).items():
            write_json(partial / path, value)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
        return folder

    def model(self, name: str) -> Path:
        """Folder of a saved checkpoint.

        Raises:
            DistilError: if there is none.
        """
        folder = self.path / name
        if not (folder / "config.json").is_file():
            stage = MODELS.get(name, "teach").replace("control", "distill")
            raise DistilError(
                f"The {name} of the run in {self.path} is needed.",
                "It has not been saved there.",
                f"Run the stage that makes it: distil-nlp {stage} RECIPE --output-dir {self.path}",
            )
        return folder

    def save_outputs(self, name: str, outputs: Outputs) -> None:
        """Keeps what scoring needs of an artefact's outputs on the test rows."""
        path = self.path / "results" / "outputs" / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, allow_pickle=False, **outputs._asdict())

    def outputs(self, name: str) -> Outputs:
        """What :meth:`save_outputs` has kept.

        Raises:
            DistilError: if there is nothing.
        """
        path = self.path / "results" / "outputs" / f"{name}.npz"
        if not path.is_file():
            raise DistilError(
                f"The outputs of the {name} on the test rows are needed.",
                f"{path} is not there.",
                f"Run the stage that keeps them: distil-nlp evaluate RECIPE --output-dir {self.path}",
            )
        with np.load(path, allow_pickle=False) as loaded:
            return Outputs(**loaded)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps(value, indent=2), encoding="utf-8")
    os.replace(partial, path)


def environment(seed: int) -> dict[str, Any]:
    """Versions, hardware, seed, and the commit of the working directory if it is a git checkout."""
    git = shutil.which("git")
    commit = ""
    if git:
        commit = subprocess.run([git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_threads": available_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "seed": seed,
        "git_commit": commit or None,
        "distil_nlp": importlib.metadata.version("distil_nlp"),
        **{package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _first_stage(key: str) -> str:
    while key not in FIRST_STAGE:
        key = key.rpartition(".")[0]
    return FIRST_STAGE[key]


def _differences(earlier: Recipe, recipe: Recipe) -> list[str]:
    def flat(value: Any, prefix: str = "") -> dict[str, Any]:
        if not isinstance(value, dict) or not value:
            return {prefix: value}
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{prefix}.{key}".strip(".")).items()}

    old, new = flat(earlier.model_dump(mode="json")), flat(recipe.model_dump(mode="json"))
    missing = object()
    changed = {key for key in old.keys() | new.keys() if old.get(key, missing) != new.get(key, missing)}
    if list(earlier.stages) != list(recipe.stages):  # their order, too
        changed.add("stages")
    return sorted(changed)
