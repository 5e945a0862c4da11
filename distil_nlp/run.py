"""A recipe at work in a folder: what the stages share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from distil_nlp.build import Assembly
from distil_nlp.evaluation.bootstrap import metric_interval, paired_bootstrap
from distil_nlp.evaluation.quality import PaddedBatches
from distil_nlp.recipe import Recipe
from distil_nlp.run_folder import RunFolder


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
        return PaddedBatches(
            self.parts.rows["test"],
            self.parts.task.collator(self.parts.tokenizer),
            batch_size=self.recipe.evaluation.batch_size,
            description=description,
        )

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
        """The test rows' labels."""
        return np.asarray(self.parts.rows["test"]["labels"])

    def predictions(self, name: str) -> Any:
        """An artefact's predictions on the test rows."""
        return self.parts.task.predictions(self.folder.logits(name))

    def _headline(self) -> Callable[[Any, Any], Any]:
        """The headline metric of ``(references, predictions)``, by row where it is a mean over rows."""
        headline = self.parts.metric_names[0]
        if headline == "accuracy":
            return lambda references, predictions: self.parts.task.row_scores(predictions, references)
        return lambda references, predictions: self.parts.metrics(predictions, references)[headline]
