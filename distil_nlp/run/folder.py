"""A run's folder: what each finished stage has left there, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distil_nlp.data.batches import Lists
from distil_nlp.errors import DistilError, RecipeError
from distil_nlp.files import write_whole
from distil_nlp.recipe import Recipe
from distil_nlp.run.changes import STAGES, differences, first_stage, made_by
from distil_nlp.run.environment import environment
from distil_nlp.students import merge_adapters


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
        if differing := differences(earlier, recipe):
            raise RecipeError(
                f"The run in {self.path} was to go on.",
                f"It was started with another recipe; these differ: {', '.join(differing)}.",
                "Go on with the same recipe and overrides, or give another --output-dir.",
            )

    def describe(self, recipe: Recipe, stage: str | None = None) -> list[str]:
        """Writes the resolved recipe and the environment; what another recipe has left behind is forgotten.

        The folder is this process's own from then on, for as long as the object lives.

        Args:
            recipe: The recipe.
            stage: The stage to be run alone, if any: finished stages before it must be of this recipe.

        Returns:
            What was set aside, by name.

        Raises:
            RecipeError: if nothing can be written there, another process does, what is there is of nobody knows
                which recipe, or an earlier stage is of another one.
        """
        self._check_writable()
        earlier = self._earlier() or recipe
        self.path.mkdir(parents=True, exist_ok=True)
        self._hold()
        aside: list[str] = []
        if changed := differences(earlier, recipe):
            first = min(STAGES.index(first_stage(key)) for key in changed)
            self._check_before(stage, STAGES[first:], changed)
            aside = self._outdate(STAGES[first:], made_by(earlier))
        recipe.save(self.path / "recipe.yaml")
        write_json(self.path / "environment.json", environment(recipe.seed))
        return aside

    def _check_before(self, stage: str | None, others: tuple[str, ...], changed: list[str]) -> None:
        """Refuses a stage alone that would go on with what another recipe has made."""
        before = STAGES[: STAGES.index(stage)] if stage else ()
        done = [name for name in others if name in before and self.has(name)]
        if done:
            command = "distill" if done[0] == "control" else done[0]  # which trains the controls, too
            raise RecipeError(
                f"The stage '{stage}' was to go on with the run in {self.path}.",
                f"It was done up to there ({', '.join(done)}) with another recipe; these differ: {', '.join(changed)}.",
                f"Give the recipe and overrides that it was done with (its recipe.yaml has them), begin with "
                f"'distil-nlp {command}', or give another --output-dir.",
            )

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
        """Keeps other processes out, and clears away what one has left that was killed as it wrote."""
        if self._lock.is_locked:
            return
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise RecipeError(
                f"A run was to write to {self.path}.",
                "Another process is at work there.",
                "Wait until it has ended, or give another --output-dir.",
            ) from error
        for left in [*self.path.rglob(".*.partial")]:
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)

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
        path = self.path / "results" / f"{stage}.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:  # written whole, but a disk may have lost it since
            raise DistilError(f"{path} was to be read.", f"It is damaged: {error}.", "Delete it.") from error
        return found

    def finish(self, stage: str, result: dict[str, Any], parts: Iterable[str] = ()) -> None:
        """Records what a stage found out, which marks it finished.

        Args:
            stage: The stage, or the part of one: the name of the model that it makes.
            result: What it found out.
            parts: Parts that were kept until now, and are in the result.
        """
        write_json(self.path / "results" / f"{stage}.json", result)
        for part in parts:
            self._forget_part(part)

    def begin(self, stage: str, recipe: Recipe) -> list[str]:
        """Marks a stage and all that follow it as not finished, and sets aside what these have made.

        What an interrupted stage has left of its own parts stays: it goes on there.

        Returns:
            What was set aside, by name.
        """
        made = made_by(recipe)
        aside = self._outdate(STAGES[STAGES.index(stage) + 1 :], made)
        if self.has(stage):  # to be done anew, from its beginning
            for name in (name for name, of in made.items() if of == stage):
                self._forget_part(name)
        self.forget(stage)
        return aside

    def _outdate(self, stages: tuple[str, ...], made: Mapping[str, str]) -> list[str]:
        """Forgets stages, the last one first, and keeps what they have made under names that no stage looks for."""
        aside = []
        for stage in reversed(stages):
            self.forget(stage)
            for name in (name for name, of in made.items() if of == stage):
                self._forget_part(name)
                if (self.path / name).is_dir():
                    shutil.rmtree(self.path / f"{name}.outdated", ignore_errors=True)
                    os.replace(self.path / name, self.path / f"{name}.outdated")
                    aside.append(name)
        return aside

    def forget(self, stage: str) -> None:
        """Marks a stage, or a part of one, as not finished."""
        (self.path / "results" / f"{stage}.json").unlink(missing_ok=True)

    def _forget_part(self, name: str) -> None:
        """Forgets a part's result, and how far its training had come."""
        shutil.rmtree(self.checkpoints / name, ignore_errors=True)
        self.forget(name)

    def drop_checkpoints(self, name: str) -> None:
        """Drops those of a training whose result is kept."""
        shutil.rmtree(self.checkpoints / name, ignore_errors=True)
        with suppress(OSError):  # another model's checkpoints are there
            self.checkpoints.rmdir()

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
        self.forget(name)  # what was kept of an earlier one is not its result
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
            stage = "distill" if name.startswith(("student", "control")) else "teach"
            raise DistilError(
                f"The {name} of the run in {self.path} is needed.",
                "It has not been saved there.",
                f"Run the stage that makes it: distil-nlp {stage} RECIPE --output-dir {self.path}",
            )
        return folder

    def save_outputs(self, name: str, outputs: Lists) -> None:
        """Keeps what scoring needs of an artefact's outputs on the test rows."""
        path = self.path / "results" / "outputs" / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, allow_pickle=False, **outputs._asdict())

    def outputs(self, name: str) -> Lists:
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
            return Lists(**loaded)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(value, indent=2))
