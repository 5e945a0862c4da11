"""A recipe at work in a folder: what the stages share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedModel

from distil_nlp.build import Assembly
from distil_nlp.build.teaching import as_they_teach
from distil_nlp.data.load import UNLABELLED
from distil_nlp.errors import DataError
from distil_nlp.evaluation.bootstrap import metric_interval, paired_bootstrap
from distil_nlp.evaluation.metrics import METRICS
from distil_nlp.evaluation.quality import PaddedBatches
from distil_nlp.recipe import Recipe
from distil_nlp.run.changes import STAGES
from distil_nlp.run.folder import RunFolder

LEARNING = ("teach", "distill")  # stages whose models others go on with


class Run:
    """A recipe at work in a folder.

    Args:
        recipe: What to do.
        path: The run's folder.
        progress: Called with one line for each step that takes time.
    """

    def __init__(self, recipe: Recipe, path: Path, progress: Callable[[str], None] = print) -> None:
        self.recipe, self.folder, self.progress = recipe, RunFolder(path), progress
        self.parts = Assembly(recipe, progress)

    @property
    def controls(self) -> list[str]:
        """Names of the controls, as in the ledger."""
        return [f"control_{name}" for name in self.recipe.control]

    def parts_of(self, name: str) -> Assembly:
        """The parts in an artefact's vocabulary: the teacher's, or that of the student as it was saved."""
        return self.parts if name in ("teacher", *self.recipe.teachers) else self._student_parts

    @cached_property
    def _student_parts(self) -> Assembly:
        if self.recipe.student.vocabulary is None:
            return self.parts
        folder = self.folder.model("student")
        return self.parts.in_vocabulary(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))

    def evaluation_batches(self, name: str, description: str = "") -> PaddedBatches:
        """The test rows as an artefact reads them, in batches."""
        parts = self.parts_of(name)
        return parts.batches(parts.rows["test"], description)

    def record(self, name: str, model: Any) -> None:
        """Runs an artefact on the test rows, and keeps what scoring needs of its outputs."""
        batches = self.evaluation_batches(name, f"Evaluating {name}")
        self.folder.save_outputs(name, self.parts_of(name).outputs_on(batches, model))

    def save_model(self, name: str, model: PreTrainedModel, parts: Assembly) -> None:
        """Saves a checkpoint of the run, with the tokenizer of its parts and what else the task puts beside it."""
        self.folder.save_model(name, model, parts.tokenizer, parts.task.companions(model))

    def saved(self, name: str) -> dict[str, PreTrainedModel]:
        """The saved models that an artefact consists of, by name: all teachers for ``teacher``, or else one."""
        names = self.recipe.teachers if name == "teacher" else (name,)
        return {each: self.parts.load_saved(self.folder.model(each)) for each in names}

    def models(self, name: str) -> dict[str, PreTrainedModel]:
        """What :meth:`saved` gives, teachers as they teach: in the dtype, and quantized, where the recipe says so."""
        return as_they_teach(self.recipe, self.saved(name))

    def once(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What a part of a stage finds out, which makes one model; where a run was interrupted after it, what it did.

        Its checkpoints go when its result is kept.
        """
        if not self.folder.has(name):
            self.folder.finish(name, make())
        self.folder.drop_checkpoints(name)
        return self.folder.result(name)

    def say_aside(self, names: Iterable[str]) -> None:
        """Says what has been set aside."""
        for name in names:
            self.progress(f"set aside: {name} is now {name}.outdated")

    def data_of(self, stage: str) -> dict[str, Any]:
        """The files that a stage has learned from, with their sha256, for its result."""
        return {"data": self._files(stage)} if stage in LEARNING else {}

    def check_data(self, stage: str) -> None:
        """Refuses to go on with models that were trained on other data.

        Raises:
            DataError: naming a file.
        """
        if stage == "bench":  # reads no data
            return
        for earlier in STAGES[: STAGES.index(stage)]:
            known = self.folder.result(earlier).get("data") if self.folder.has(earlier) else None
            if known is not None and known != (now := self._files(earlier)):
                different = [name for name in {**known, **now} if known.get(name) != now.get(name)]
                raise DataError(
                    f"The stage '{stage}' was to go on with what '{earlier}' has made in {self.folder.path}.",
                    f"The data has changed since: {', '.join(different)}.",
                    f"Put it back as it was, begin with 'distil-nlp {earlier}', or give another --output-dir.",
                )

    def _files(self, stage: str) -> dict[str, str]:
        files = self.parts.data.summary.sha256
        return {name: sha for name, sha in files.items() if stage != "teach" or not name.startswith(UNLABELLED)}

    def scores(self, name: str) -> dict[str, Any]:
        """Metrics of an artefact whose outputs on the test rows are known, and the headline's interval."""
        score, predictions = self._headline(), self.predictions(name)
        references = self.references(name)
        interval = metric_interval(score, references, predictions, samples=self.recipe.evaluation.bootstrap_samples)
        return {"metrics": self.parts.metrics(predictions, references), "interval": asdict(interval)}

    def gain(self, control: str) -> dict[str, Any]:
        """The student's headline metric less a control's, with its paired bootstrap interval."""
        interval = paired_bootstrap(
            self._headline(),
            self.references("student"),
            self.predictions("student"),
            self.predictions(control),
            samples=self.recipe.evaluation.bootstrap_samples,
        )
        return asdict(interval)

    def references(self, name: str) -> Any:
        """What is right on the test rows as an artefact reads them."""
        if self.parts.task.scored_by_teacher:
            return self.predictions("teacher")  # which is recorded first
        return self.parts_of(name).references("test")

    def predictions(self, name: str) -> Any:
        """An artefact's predictions on the test rows."""
        return self.parts_of(name).predictions(self.folder.outputs(name), "test")

    def _headline(self) -> Callable[[Any, Any], Any]:
        """The headline metric of ``(references, predictions)``, as figures of each row where it is made of them."""
        headline = self.parts.metric_names[0]
        metric = METRICS[headline]() if headline in METRICS else None

        def score(references: Any, predictions: Any) -> Any:
            if metric is None:
                return self.parts.metrics(predictions, references)[headline]
            totals = metric.row_totals(references, predictions)
            return metric.score(np.asarray(references), np.asarray(predictions)) if totals is None else totals

        return score
