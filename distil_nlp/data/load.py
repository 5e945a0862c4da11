"""The data of a recipe, to clean rows in three splits, and a summary of what was done to them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from datasets import ClassLabel, Dataset, DatasetDict

from distil_nlp.checksums import sha256_of
from distil_nlp.data.labels import NO_CLASS, NO_LABEL, Labels, encode_labels
from distil_nlp.data.read import DataSettings, RawData, read
from distil_nlp.data.split import SPLITS, assign_splits, missing_fractions, text_key
from distil_nlp.errors import DataError

logger = logging.getLogger(__name__)


class TaskSettings(DataSettings, Protocol):
    """What loading needs of a recipe's ``task``."""

    @property
    def classes(self) -> Mapping[str, str] | None: ...
    @property
    def split(self) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class DataSummary:
    """What a report says about the data.

    Attributes:
        rows: Rows of each split.
        dropped: Rows left out, by reason: ``empty text``, ``no label``, ``no class``.
        label_names: In the order of their ids.
        majority_label: The commonest label of the test rows.
        majority_baseline: The accuracy on the test rows of always answering that label.
        carved: Splits that the data did not have, and that were taken from its training rows.
        shared_texts: For splits that came with the data: ``train/test: n`` test rows have a text of train.
        sha256: Of each file that was read, by name.
    """

    rows: dict[str, int]
    dropped: dict[str, int]
    label_names: list[str]
    majority_label: str
    majority_baseline: float
    carved: list[str]
    shared_texts: dict[str, int]
    sha256: dict[str, str]


class TaskData(NamedTuple):
    """Rows with ``text``, ``text_pair`` (for pairs) and ``label`` (a ``ClassLabel``), and their summary."""

    splits: DatasetDict
    summary: DataSummary


def load_task_data(task: TaskSettings, progress: Callable[[str], None] = logger.info) -> TaskData:
    """Reads, cleans and splits the rows of a classification task.

    Splits that come with the data stay as they are. Those that are missing are carved from the training rows
    by a hash of the text, in the fractions of ``task.split``: no text is in two of them, and the order of
    the rows is of no account. Rows without text or label, or that fit no class, are left out and counted.

    Args:
        task: The ``task`` section of a recipe.
        progress: Called with one line for each step that takes time.

    Raises:
        UnresolvedReferenceError: There is no such data, or it cannot be had now.
        DataError: The data cannot be read, does not fit the task, or leaves a split empty.
        RecipeError: A rule of ``classes`` cannot be read.
    """
    raw = read(task, progress)
    _leave_out_unlabelled_splits(raw, task.label)
    labels = encode_labels(raw.splits, task.label, rules=task.classes, known_names=raw.label_names)
    dropped: Counter[str] = Counter()
    keys: dict[str, list[bytes]] = {}
    splits: dict[str, Dataset] = {}
    for name, rows in raw.splits.items():
        splits[name], keys[name] = _clean(rows, labels.ids[name], task, labels, dropped)
    shared = _shared_texts(keys)
    carved = [name for name in SPLITS if name not in splits]
    if carved:
        chosen = assign_splits(keys["train"], missing_fractions(list(splits), task.split))
        train = splits["train"]
        splits |= {name: train.select(rows) for name, rows in chosen.items()}
    _check_rows(splits, carved, dropped, task)
    summary = _summarise(splits, labels.names, dropped, raw.files, carved, shared)
    return TaskData(DatasetDict({name: splits[name] for name in SPLITS}), summary)


def _leave_out_unlabelled_splits(raw: RawData, label: str) -> None:
    """Some sets come with a test split whose labels are kept secret."""
    for name in [name for name in SPLITS[1:] if name in raw.splits]:
        rows = raw.splits[name]
        if isinstance(rows.features[label], ClassLabel) and set(rows[label][:]) <= {-1, None}:
            logger.warning("The %s rows have no labels and are left out.", name)
            del raw.splits[name]


def _clean(
    rows: Dataset, ids: list[int], task: TaskSettings, labels: Labels, dropped: Counter[str]
) -> tuple[Dataset, list[bytes]]:
    """Keeps the rows that can be learned from, under the library's own column names."""
    texts = _texts(rows, task.text, task)
    pairs = _texts(rows, task.text_pair, task) if task.text_pair is not None else [None] * len(texts)
    kept, keys = [], []
    for row, (text, pair, label) in enumerate(zip(texts, pairs, ids, strict=True)):
        if not text or (task.text_pair is not None and not pair):
            dropped["empty text"] += 1
        elif label in (NO_LABEL, NO_CLASS):
            dropped["no label" if label == NO_LABEL else "no class"] += 1
        else:
            kept.append(row)
            keys.append(text_key(text, pair))
    names = {task.text: "text", task.text_pair: "text_pair"}
    clean = rows.remove_columns(task.label).rename_columns({old: new for old, new in names.items() if old})
    return clean.add_column("label", ids, feature=ClassLabel(names=labels.names)).select(kept), keys


def _texts(rows: Dataset, column: str, task: TaskSettings) -> list[str]:
    texts = rows[column][:]
    for row, text in enumerate(texts):
        if text is not None and not isinstance(text, str):
            raise DataError(
                f"The column '{column}' of '{task.dataset}' is not text.",
                f"Row {row + 1} has {text!r}.",
                "Name the right column as `text` or `text_pair`.",
            )
    return [text.strip() if text else "" for text in texts]


def _shared_texts(keys: Mapping[str, list[bytes]]) -> dict[str, int]:
    shared = {}
    present = [name for name in SPLITS if name in keys]
    for index, later in enumerate(present):
        for earlier in present[:index]:
            known = set(keys[earlier])
            if count := sum(key in known for key in keys[later]):
                shared[f"{earlier}/{later}"] = count
                logger.warning("%d rows of %s have a text that is in %s too.", count, later, earlier)
    return shared


def _check_rows(splits: Mapping[str, Dataset], carved: list[str], dropped: Counter[str], task: TaskSettings) -> None:
    for name in SPLITS:
        if len(splits[name]) == 0:
            sizes = ", ".join(f"{split} {len(splits[split])}" for split in SPLITS)
            left_out = ", ".join(f"{count} with {reason}" for reason, count in dropped.items()) or "none"
            fix = f"give `split: {{{name}: ...}}` a larger share" if carved else f"give the {name} file rows"
            raise DataError(
                f"The {name} split of '{task.dataset}' is empty.",
                f"Rows: {sizes}; left out: {left_out}.",
                f"Use more data, or {fix}.",
            )


def _summarise(
    splits: Mapping[str, Dataset],
    names: list[str],
    dropped: Counter[str],
    files: list[Path],
    carved: list[str],
    shared: dict[str, int],
) -> DataSummary:
    counts = {name: Counter(splits[name]["label"][:]) for name in SPLITS}
    if unseen := [name for index, name in enumerate(names) if not counts["train"][index]]:
        logger.warning("No training row has the label %s.", ", ".join(unseen))
    for reason, count in dropped.items():
        logger.info("Left out %d rows with %s.", count, reason)
    majority, count = min(counts["test"].items(), key=lambda item: (-item[1], item[0]))
    return DataSummary(
        rows={name: len(splits[name]) for name in SPLITS},
        dropped=dict(dropped),
        label_names=names,
        majority_label=names[majority],
        majority_baseline=count / len(splits["test"]),
        carved=carved,
        shared_texts=shared,
        sha256={file.name: sha256_of(file) for file in files},
    )
