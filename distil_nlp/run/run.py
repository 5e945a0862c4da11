"""A recipe at work in a folder: what the stages share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from distil_nlp.build import Assembly
from distil_nlp.evaluation.bootstrap import metric_interval, paired_bootstrap
from distil_nlp.evaluation.metrics import METRICS
from distil_nlp.evaluation.quality import Array, Batch, PaddedBatches
from distil_nlp.recipe import Recipe
from distil_nlp.run.folder import RunFolder


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

    def evaluation_batches(self, description: str = "") -> PaddedBatches:
        """The test rows, in batches."""
        return self.parts.batches(self.parts.rows["test"], description)

    def record(self, name: str, forward: Callable[[Batch], Mapping[str, Array]]) -> None:
        """Runs an artefact on the test rows, and keeps what scoring needs of its outputs."""
        batches = self.evaluation_batches(f"Evaluating {name}")
        self.folder.save_outputs(name, batches.outputs(forward, self.parts.task.keep))

    def save_model(self, name: str, model: PreTrainedModel) -> None:
        """Saves a checkpoint of the run, with its tokenizer and what else the task puts beside it."""
        self.folder.save_model(name, model, self.parts.tokenizer, self.parts.task.companions(model))

    def scores(self, name: str) -> dict[str, Any]:
        """Metrics of an artefact whose outputs on the test rows are known, and the headline's interval."""
        score, predictions = self._headline(), self.predictions(name)
        interval = metric_interval(
            score, self.references(), predictions, samples=self.recipe.evaluation.bootstrap_samples
        )
        return {"metrics": self.parts.metrics(predictions, self.references()), "interval": asdict(interval)}

    def gain(self, control: str) -> dict[str, Any]:
        """The student's headline metric less a control's, with its paired bootstrap interval."""
        interval = paired_bootstrap(
            self._headline(),
            self.references(),
            self.predictions("student"),
            self.predictions(control),
            samples=self.recipe.evaluation.bootstrap_samples,
        )
        return asdict(interval)

    def references(self) -> Any:
        """What is right on the test rows."""
        if self.parts.task.scored_by_teacher:
            return self.predictions("teacher")  # which is recorded first
        return self.parts.references("test")

    def predictions(self, name: str) -> Any:
        """An artefact's predictions on the test rows."""
        return self.parts.predictions(self.folder.outputs(name), "test")

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
