"""Labels or a number for a sentence, or for a pair of sentences."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from datasets import ClassLabel, Dataset, Value
from numpy.typing import NDArray
from sklearn.metrics import matthews_corrcoef
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from distil_nlp.data.align import align_labels
from distil_nlp.data.batches import Lists, list_batches, map_texts
from distil_nlp.data.collate import OnlyColumns
from distil_nlp.data.groups import group_ids, refuse_single_rows
from distil_nlp.data.label_lists import encode_label_lists, numbers, refuse_ones_and_zeros
from distil_nlp.data.labels import NO_CLASS, NO_LABEL, encode_labels, is_missing, is_secret
from distil_nlp.data.read import RawData
from distil_nlp.data.tasks.base import TASKS, Array, Task
from distil_nlp.data.texts import text_column
from distil_nlp.errors import DataError, ModelError
from distil_nlp.signals import IGNORED

logger = logging.getLogger(__name__)

METRICS = {
    "single_label": ("accuracy", "f1_macro"),
    "multi_label": ("f1_micro", "f1_samples"),
    "regression": ("pearson", "spearman", "mse"),
}


@TASKS.register("text-classification")
class TextClassification(Task):
    """One label for each row, any number of labels, or a number (``settings.problem``)."""

    auto_class = AutoModelForSequenceClassification
    keys = ("text", "text_pair", "label", "group")
    by_row = True
    problem_type: ClassVar[dict[str, Any]] = {
        "single_label": "single_label_classification",
        "multi_label": "multi_label_classification",
        "regression": "regression",
    }

    @property
    def metrics(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the problem."""
        return METRICS[self.settings.problem]

    @property
    def predicts(self) -> str:  # type: ignore[override]
        """By the problem."""
        return {"multi_label": "labels", "regression": "number"}.get(self.settings.problem, "class")

    @property
    def default_objectives(self) -> Mapping[str, Mapping[str, Any]]:  # type: ignore[override]
        """A number is no distribution: it is compared as it is."""
        usual = super().default_objectives
        return {"task_loss": usual["task_loss"], "logits_mse": {"weight": 0.5}} if self._is_number else usual

    @property
    def _is_number(self) -> bool:
        return bool(self.settings.problem == "regression")

    def clean(self, raw: RawData, dropped: Counter[str]) -> dict[str, Dataset]:
        """Rows with ``text``, ``text_pair`` for pairs, ``label``, and the number of their ``group`` if it is named."""
        self.leave_out_secret(raw)
        labels, feature = self._labels(raw)
        splits = {name: self._clean(rows, labels[name], feature, dropped) for name, rows in raw.splits.items()}
        if self.settings.group is not None:
            refuse_single_rows(splits["train"]["group"][:], self.settings.group)
        return splits

    def says_nothing(self, rows: Dataset, raw: RawData) -> bool:
        """All labels are missing, or -1 where that is no class of the training rows, or lists of none."""
        label, known = self.settings.label, raw.splits["train"]
        trained = [value for value in known[label][:] if not is_missing(value)]
        a_class = not isinstance(known.features[label], ClassLabel) and any(map(is_secret, trained))
        none = is_missing if a_class and not self._is_number else is_secret
        return all(none(value) or value == [] for value in rows[label][:])

    def _labels(self, raw: RawData) -> tuple[dict[str, list[Any]], Any]:
        """The label of each row by split, and their type."""
        column = self.settings.label
        if self._is_number:
            return {name: numbers(rows, column) for name, rows in raw.splits.items()}, Value("float32")
        if self.settings.problem == "multi_label":
            lists, feature = encode_label_lists(raw.splits, column, known_names=raw.label_names)
            refuse_ones_and_zeros(lists, raw.splits, column)
            return lists, feature
        labels = encode_labels(raw.splits, column, rules=self.settings.classes, known_names=raw.label_names)
        return dict(labels.ids), ClassLabel(names=labels.names)

    def _clean(self, rows: Dataset, labels: list[Any], feature: Any, dropped: Counter[str]) -> Dataset:
        texts = text_column(rows, "text", self.settings)
        paired = self.settings.text_pair is not None
        pairs = text_column(rows, "text_pair", self.settings) if paired else [""] * len(texts)
        grouped = self.settings.group is not None
        groups = group_ids(rows, self.settings.group) if grouped else [0] * len(texts)
        kept = []
        for row, (text, pair, label, group) in enumerate(zip(texts, pairs, labels, groups, strict=True)):
            reason = "empty text" if not text or (paired and not pair) else _missing(label, feature)
            reason = "no group" if reason is None and group is None else reason
            if reason is None:
                kept.append(row)
            else:
                dropped[reason] += 1
        names = {column: key for key, column in self.columns.items() if key in self.settings.text_keys}
        clean = rows.select_columns(list(names)).rename_columns(names).add_column("label", labels, feature=feature)
        return (clean.add_column("group", groups, feature=Value("int64")) if grouped else clean).select(kept)

    def texts(self, rows: Dataset) -> list[tuple[str, ...]]:
        """The text, and its pair."""
        columns = [rows[name][:] for name in ("text", "text_pair") if name in rows.column_names]
        return list(zip(*columns, strict=True))

    def kept_together(self, rows: Dataset) -> list[tuple[str, ...]]:
        """The group, where rows have one."""
        return [(str(group),) for group in rows["group"][:]] if self.settings.group else super().kept_together(rows)

    def label_names(self, rows: Dataset) -> list[str] | None:
        """The names of ``label``; None for regression."""
        feature = rows.features["label"]
        feature = getattr(feature, "feature", feature)
        return list(feature.names) if isinstance(feature, ClassLabel) else None

    def seen_labels(self, rows: Dataset) -> set[int]:
        """Those in ``label``."""
        if self.settings.problem == "multi_label":
            return {label for labels in rows["label"][:] for label in labels}
        return set() if self._is_number else set(rows["label"][:])

    def majority(self, rows: Dataset) -> tuple[str, float] | None:
        """Of one label a row."""
        if self.settings.problem != "single_label":
            return None
        counts = Counter(rows["label"][:])
        label, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
        return rows.features["label"].int2str(label), count / len(rows)

    def model_kwargs(self, label_names: list[str] | None) -> dict[str, Any]:
        """Names of the labels, and the problem."""
        named = super().model_kwargs(label_names) or {"num_labels": 1}
        return named | {"problem_type": self.problem_type[self.settings.problem]}

    def fit_teacher(self, teacher: PreTrainedModel, label_names: list[str] | None) -> None:
        """Its labels must be the data's, and its problem the recipe's; many a checkpoint does not say which it has."""
        problem, said = self.problem_type[self.settings.problem], teacher.config.problem_type
        if said not in (None, problem):
            named = {name: key for key, name in self.problem_type.items()}.get(said, said)
            raise ModelError(
                f"The teacher is to have learned `problem: {self.settings.problem}`.",
                f"Its config.json has the problem_type {said}: it was trained for `problem: {named}`.",
                "Name another teacher, correct `problem`, or give the teacher a head of its own (`fine_tune`).",
            )
        if label_names:
            align_labels(teacher.config, label_names, classes=self.settings.problem == "single_label")
        if self._is_number and teacher.config.num_labels != 1:
            raise ModelError(
                "The teacher is to give a number for each text (`problem: regression`).",
                f"Its head has {teacher.config.num_labels} outputs.",
                "Name a model of one output, or give the teacher a head of its own (`fine_tune`).",
            )
        teacher.config.problem_type = problem

    def tokenize(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """``input_ids``, ``attention_mask``, ``token_type_ids`` if there are any, ``labels``, and ``group`` if named.

        For any number of labels, rows without them need the column ``label`` all the same: it says how many there are.
        """
        several = self.settings.problem == "multi_label"
        return map_texts(
            rows,
            _encode,
            tokenizer=tokenizer,
            max_length=self.settings.max_length,
            number=self._is_number,
            labels=len(self.label_names(rows) or ()) if several else None,
        )

    def collator(self, tokenizer: PreTrainedTokenizerBase, *, train: bool = True) -> Any:
        """Pads each batch to its longest row."""
        collator = DataCollatorWithPadding(tokenizer)
        columns = (*tokenizer.model_input_names, "labels", "group")
        return OnlyColumns(collator, columns) if self.settings.group else collator

    def keep(self, output: Mapping[str, Array], batch: Mapping[str, Array]) -> list[Array]:
        """Logits; of one label a row only the class of the highest, ``[1]``: there may be thousands of classes."""
        if self.settings.problem != "single_label":
            return super().keep(output, batch)
        return list(np.argmax(output["logits"], axis=-1)[:, None])

    def predictions(self, outputs: Lists, rows: Dataset, examples: Dataset) -> NDArray[Any]:
        """The class of the highest logit ``[rows]``, the labels above even odds ``[rows, labels]``, or the number."""
        if self._is_number:
            return np.asarray(outputs.values[:, 0], dtype=np.float64)
        if self.settings.problem == "multi_label":
            return np.asarray(outputs.values > 0, dtype=np.int64)
        classes = outputs.values.ndim == 1  # or logits, while transformers evaluates
        return np.asarray(outputs.values if classes else np.argmax(outputs.values, axis=-1))

    def references(self, rows: Dataset, examples: Dataset) -> NDArray[Any]:
        """The labels.

        Raises:
            DataError: Some rows have none.
        """
        found, missing = [], 0
        for labels in self._given(rows):
            unknown = labels == IGNORED if self.settings.problem == "single_label" else np.isnan(labels)
            unknown = unknown.reshape(len(labels), -1).any(-1)  # [rows]
            missing += np.count_nonzero(unknown)
            found.append(labels[~unknown].astype(np.float64 if self._is_number else np.int64))
        if missing:
            lacking = f"{missing} of {len(rows)} rows have none."
            raise DataError("Predictions were to be compared with labels.", lacking, "Leave such rows out.")
        return np.concatenate(found)

    def _given(self, rows: Dataset) -> Iterator[NDArray[Any]]:
        """Labels of tokenized rows: all, or of several labels in batches of rows, ``[rows, labels]``."""
        if self.settings.problem == "multi_label":
            yield from (batch.values.reshape(len(batch.counts), -1) for batch in list_batches(rows, "labels"))
        else:
            yield np.asarray(rows["labels"][:], dtype=np.float64)

    def weakness(self, outputs: Lists, rows: Dataset) -> str | None:
        """No better than one answer for all rows; where one is right for all, nothing can be told."""
        given, right = self.predictions(outputs, rows, rows), self.references(rows, rows)
        if (right == right[0]).all():
            return None
        where = f"On {len(right)} validation rows"
        if self._is_number:
            error, spread = np.square(given - right).mean(), np.var(right)
            better = f"always giving their mean would have {spread:.4g}"
            return None if error < spread else f"{where} its mean squared error is {error:.4g}; {better}."
        if self.settings.problem == "multi_label":
            score, best = 2 * (given * right).sum() / max(1, (given + right).sum()), _best_constant_f1(right)
            better = f"always giving the same commonest ones would have {best:.3f}"
            return None if score > best else f"{where} the F1 of its labels is {score:.3f}; {better}."
        share, majority = (given == right).mean(), np.bincount(right).max() / len(right)
        correlation = matthews_corrcoef(right, given)
        if share > majority or correlation > 2 / math.sqrt(len(right)):  # by chance in one case of forty
            return None
        better = f"always giving the commonest label would be right in {majority:.3f}"
        return f"{where} it is right in {share:.3f}; {better} (its Matthews correlation is {correlation:.3f})."


def _best_constant_f1(right: NDArray[Any]) -> float:
    """The F1 over all labels that the best answer has which is the same for all rows."""
    counts = np.sort(right.sum(axis=0))[::-1]  # [labels]
    given = len(right) * np.arange(1, len(counts) + 1)
    return float(np.max(2 * np.cumsum(counts) / (given + counts.sum())))


def _missing(label: Any, feature: Any) -> str | None:
    """Why a row with this label cannot be learned from."""
    if label is None or (isinstance(feature, ClassLabel) and label == NO_LABEL):
        return "no label"
    return "no class" if isinstance(feature, ClassLabel) and label == NO_CLASS else None


def _encode(
    batch: dict[str, list[Any]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None,
    number: bool,
    labels: int | None,
) -> dict[str, Any]:
    encoded = tokenizer(batch["text"], batch.get("text_pair"), truncation=True, max_length=max_length)
    if "group" in batch:
        encoded["group"] = batch["group"]
    given = batch.get("label", [None] * len(batch["text"]))
    if labels is None:
        unknown = math.nan if number else IGNORED
        return {**encoded, "labels": [unknown if label is None else label for label in given]}
    found = np.zeros((len(given), labels))
    for row, ids in zip(found, given, strict=True):
        if ids is None:
            row[:] = math.nan
        else:
            row[ids] = 1.0
    return {**encoded, "labels": found}
