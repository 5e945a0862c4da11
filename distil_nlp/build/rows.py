"""The rows of a recipe, and what a model's outputs on them are worth."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distil_nlp.build.loading import Loader
from distil_nlp.build.teaching import by_data_labels
from distil_nlp.data.batches import Lists
from distil_nlp.data.load import TaskData, load_task_data
from distil_nlp.data.tasks import TASKS, Forward, Task
from distil_nlp.data.unlabelled import of_texts_alone, read_texts
from distil_nlp.evaluation.metrics import compute_metrics
from distil_nlp.evaluation.quality import PaddedBatches, TorchPredictor, teacher_forward
from distil_nlp.export import OnnxModel
from distil_nlp.recipe import Recipe
from distil_nlp.recipe.rows import UnlabelledSection
from distil_nlp.signals import Needs
from distil_nlp.students import trim_embeddings
from distil_nlp.teachers import Teacher

logger = logging.getLogger(__name__)

_LOGITS = 2**28  # of a vocabulary that are held at a time: 1 GiB

Parts = TypeVar("Parts", bound="ScoredRows")


class ScoredRows:
    """A recipe's task, rows and metrics, each built when it is first asked for and kept.

    Args:
        recipe: The recipe.
        progress: Called with one line for each step that takes time.
    """

    def __init__(self, recipe: Recipe, progress: Callable[[str], None] = logger.info) -> None:
        self.recipe, self.progress = recipe, progress
        self._loader = Loader(progress)
        self._whole: ScoredRows | None = None

    @cached_property
    def task(self) -> Task:
        """What is learned."""
        return TASKS[self.recipe.task.name](self.recipe.task, partial(self._loader.json, self.recipe.teacher))

    @cached_property
    def data(self) -> TaskData:
        """Clean rows by split."""
        return load_task_data(self.task, self.progress)

    @cached_property
    def label_names(self) -> list[str] | None:
        """Names of the label ids."""
        return self.task.label_names(self.data.splits["train"])

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The teacher's tokenizer, which is the student's too, unless this has a vocabulary of its own."""
        return self._loader.tokenizer(self.recipe.teacher)

    @property
    def whole(self: Parts) -> Parts:
        """The parts in the teacher's vocabulary: these themselves, unless they were made :meth:`in_vocabulary`."""
        return self._whole or self  # type: ignore[return-value]

    def in_vocabulary(self: Parts, tokenizer: PreTrainedTokenizerBase) -> Parts:
        """The same parts in the vocabulary of a trimmed tokenizer, which cuts the rows and whose tokens models have."""
        _ = self.data  # which is read once for both
        parts = copy.copy(self)
        parts.__dict__.pop("rows", None)
        parts.tokenizer, parts._whole = tokenizer, self.whole
        return parts

    def trimmed(self, model: PreTrainedModel) -> PreTrainedModel:
        """A model of the teacher's vocabulary in that of these parts."""
        return model if self.whole is self else trim_embeddings(model, self.whole.tokenizer, self.tokenizer)

    @cached_property
    def rows(self) -> dict[str, Any]:
        """Tokenized rows by split."""
        return {name: self.task.tokenize(rows, self.tokenizer) for name, rows in self.data.splits.items()}

    def texts(self, section: UnlabelledSection) -> Dataset:
        """Text without labels, each text by itself and tokenized; those in validation or test are left out."""
        alone, dropped = of_texts_alone(self.task), Counter[str]()
        rows, _ = read_texts(alone, section, self.data.splits, dropped, self.progress)
        left_out = "".join(f"; {count:,} left out ({reason})" for reason, count in dropped.items() if count)
        self.progress(f"{section.dataset}: {len(rows):,} texts{left_out}")
        return alone.tokenize(rows, self.tokenizer)

    def batches(self, rows: Any, description: str = "") -> PaddedBatches:
        """Batches to evaluate tokenized rows in."""
        return PaddedBatches(
            rows,
            self.task.collator(self.tokenizer, train=False),
            batch_size=self.recipe.evaluation.batch_size,
            most_tokens=_LOGITS // len(self.tokenizer) if self.task.predicts == "likelihood" else None,
            description=description,
        )

    def outputs(self, model: PreTrainedModel | Teacher, split: str) -> Lists:
        """What scoring keeps of a model's outputs on a split."""
        return self.outputs_on(self.batches(self.rows[split]), model)

    def outputs_on(self, batches: PaddedBatches, model: PreTrainedModel | Teacher | OnnxModel) -> Lists:
        """What scoring keeps of the outputs of a model, or of several as one, which is run where models are trained."""
        with _placed(model, self._device):
            return batches.outputs(self.forward(model), self.task.keep)

    @cached_property
    def _device(self) -> torch.device:
        return PartialState(cpu=bool(self.recipe.training.get("use_cpu"))).device

    def forward(self, model: PreTrainedModel | Teacher | OnnxModel) -> Forward:
        """A model, or several as one, as a function from padded batches to what scoring keeps something of."""
        if isinstance(model, OnnxModel):
            return self.task.forward(model, self.tokenizer)
        if not isinstance(model, nn.Module):
            return teacher_forward(model, self._device)
        return by_data_labels(self.task.forward(TorchPredictor(model), self.tokenizer), model, self.label_names)

    def predictions(self, outputs: Lists, split: str) -> Any:
        """What the metrics take of a model's outputs on a split."""
        return self.task.predictions(outputs, self.rows[split], self.data.splits[split])

    def references(self, split: str) -> Any:
        """What is right on a split, where its rows say it."""
        return self.task.references(self.rows[split], self.data.splits[split])

    @cached_property
    def metric_names(self) -> tuple[str, ...]:
        """The recipe's metrics, or the task's own; the first is the headline."""
        return self.recipe.task.metrics or self.task.metrics_for(self.label_names)

    @cached_property
    def metrics(self) -> Callable[[Any, Any], dict[str, float]]:
        """From predictions and references to the value of each metric."""
        right = None if self.task.scored_by_teacher else partial(self.references, "test")
        return compute_metrics(
            self.metric_names, takes=self.task.predicts, label_names=self.label_names, references=right
        )

    def validation_metrics(self, prediction: Any) -> dict[str, float]:
        """The metrics while transformers evaluates, where a row has one prediction."""
        values, rows = np.asarray(prediction.predictions), prediction.label_ids
        outputs = Lists(values, np.ones(len(values), dtype=np.int64))
        return self.metrics(self.task.predictions(outputs, rows, rows), rows)


@contextmanager
def _placed(model: Any, device: torch.device) -> Iterator[None]:
    """Runs a model on a device, and puts it back."""
    before = next((each.device for each in model.parameters()), device) if isinstance(model, nn.Module) else device
    moves = before != device and getattr(model, "hf_device_map", None) is None
    try:
        if moves:
            model.to(device)
        yield
    finally:
        if moves:
            model.to(before)
        elif isinstance(model, Teacher):
            model.prepare(Needs(logits=True), torch.device("cpu"))
