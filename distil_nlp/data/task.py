"""What is learned: the model class, the columns, tokenization, batches, metrics and what a prediction is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike, NDArray
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, PreTrainedTokenizerBase

from distil_nlp.registry import Registry


class Task(ABC):
    """One kind of task, named as in ``transformers.pipeline``; it holds no state.

    Attributes:
        auto_class: The ``transformers`` class whose ``from_pretrained`` makes teacher and student.
        columns: The columns that rows come with, before tokenization; those in ``optional`` may be missing.
        metrics: The metrics to use when a recipe names none, the headline first.
    """

    auto_class: Any
    columns: tuple[str, ...]
    optional: tuple[str, ...] = ()
    metrics: tuple[str, ...]

    @abstractmethod
    def label_names(self, dataset: Dataset) -> list[str] | None:
        """Returns the names of the label ids, or None for a task without classes."""

    @abstractmethod
    def model_kwargs(self, label_names: list[str] | None) -> dict[str, Any]:
        """Returns what ``from_pretrained`` must be told of the labels."""

    @abstractmethod
    def tokenize(self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Dataset:
        """Returns the rows as the model takes them, in the same order; the result is cached on disk."""

    @abstractmethod
    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """Returns what makes a padded batch of tokenized rows."""

    @abstractmethod
    def predictions(self, logits: ArrayLike) -> Any:
        """Turns the model's outputs into what the metrics take."""

    @abstractmethod
    def row_scores(self, predictions: ArrayLike, references: ArrayLike) -> NDArray[np.float64] | None:
        """Returns one score a row, whose mean is the headline quality, or None where there is none."""


TASKS: Registry[Task] = Registry("task")


class TextClassification(Task):
    """One label for a sentence, or for a pair of sentences."""

    auto_class = AutoModelForSequenceClassification
    columns = ("text", "text_pair", "label")
    optional = ("text_pair",)
    metrics = ("accuracy", "f1_macro")

    def label_names(self, dataset: Dataset) -> list[str]:
        """Returns the names of the ``ClassLabel`` column ``label``."""
        return list(dataset.features["label"].names)

    def model_kwargs(self, label_names: list[str] | None) -> dict[str, Any]:
        """Returns ``num_labels``, ``id2label`` and ``label2id``."""
        names = label_names or []
        return {
            "num_labels": len(names),
            "id2label": dict(enumerate(names)),
            "label2id": {name: index for index, name in enumerate(names)},
        }

    def tokenize(self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Dataset:
        """Returns ``input_ids``, ``attention_mask``, ``token_type_ids`` if there are any, and ``labels``."""
        return dataset.map(
            _encode,
            batched=True,
            fn_kwargs={"tokenizer": tokenizer, "max_length": max_length},
            remove_columns=dataset.column_names,
            desc="Tokenizing",
        )

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> DataCollatorWithPadding:
        """Pads each batch to its longest row."""
        return DataCollatorWithPadding(tokenizer)

    def predictions(self, logits: ArrayLike) -> NDArray[np.int64]:
        """Returns the class of the highest logit. Shapes: ``[rows, labels]`` to ``[rows]``."""
        return np.asarray(np.argmax(logits, axis=-1))

    def row_scores(self, predictions: ArrayLike, references: ArrayLike) -> NDArray[np.float64]:
        """Returns 1 for a right answer and 0 for a wrong one. Shape: ``[rows]``."""
        return np.asarray(np.equal(predictions, references), dtype=np.float64)


def _encode(batch: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> dict[str, Any]:
    encoded = tokenizer(batch["text"], batch.get("text_pair"), truncation=True, max_length=max_length)
    return {**encoded, "labels": batch["label"]}


TASKS.register("text-classification")(TextClassification())
