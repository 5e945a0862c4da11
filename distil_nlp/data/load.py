"""The data of a recipe, to clean rows in three splits, and a summary of what was done to them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from datasets import Dataset, DatasetDict

from distil_nlp.data.read import read
from distil_nlp.data.split import SPLITS, assign_splits, missing_fractions, text_key
from distil_nlp.data.tasks import Task
from distil_nlp.data.unlabelled import read_unlabelled
from distil_nlp.errors import DataError
from distil_nlp.files import sha256_of

logger = logging.getLogger(__name__)
UNLABELLED = "unlabelled: "  # before the names of files of unlabelled text


@dataclass(frozen=True)
class DataSummary:
    """What a report says about the data.

    Attributes:
        rows: Rows of each split.
        dropped: Rows left out, by reason: ``empty text``, ``no label``, ``no class``.
        label_names: In the order of their ids; empty for a task without classes.
        majority_label: The commonest label of the test rows, where rows have one label each.
        majority_baseline: The accuracy on the test rows of always answering that label.
        carved: Splits that the data did not have, and that were taken from its training rows.
        shared_texts: For splits that came with the data: ``train/test: n`` test rows have a text of train.
        sha256: Of each file that was read, by name.
    """

    rows: dict[str, int]
    dropped: dict[str, int]
    label_names: list[str]
    majority_label: str | None
    majority_baseline: float | None
    carved: list[str]
    shared_texts: dict[str, int]
    sha256: dict[str, str]


class TaskData(NamedTuple):
    """Rows under the task's own column names, and their summary; labels of the split ``unlabelled`` are None."""

    splits: DatasetDict
    summary: DataSummary


def load_task_data(task: Task, progress: Callable[[str], None] = logger.info) -> TaskData:
    """Reads, cleans and splits the rows of a task.

    Splits that come with the data stay as they are. Those that are missing are carved from the training rows
    by a hash of the text, in the fractions of ``task.split``: no text is in two of them, and the order of
    the rows is of no account. Rows that cannot be learned from are left out and counted. Text without labels
    (``task.unlabelled``) is a split of its own.

    Args:
        task: What is learned; its settings say from which rows.
        progress: Called with one line for each step that takes time.

    Raises:
        UnresolvedReferenceError: There is no such data, or it cannot be had now.
        DataError: The data cannot be read, does not fit the task, or leaves a split empty.
        RecipeError: A rule of ``classes`` cannot be read.
    """
    settings = task.settings
    raw = read(settings, task.columns, progress)
    dropped: Counter[str] = Counter()
    splits = task.clean(raw, dropped)
    keys = {name: [text_key(*texts) for texts in task.texts(rows)] for name, rows in splits.items()}
    shared = _shared_texts(keys)
    carved = [name for name in SPLITS if name not in splits]
    if carved:
        train = splits["train"]
        together = [text_key(*each) for each in task.kept_together(train)]
        chosen = assign_splits(together, missing_fractions(list(splits), settings.split))
        splits |= {name: train.select(rows) for name, rows in chosen.items()}
    _check_rows(splits, carved, dropped, settings.dataset)
    names = task.label_names(splits["train"]) or []
    _warn_of_unseen(task, splits["train"], names)
    label, share = task.majority(splits["test"]) or (None, None)
    splits, files = {name: splits[name] for name in SPLITS}, {file.name: sha256_of(file) for file in raw.files}
    if settings.unlabelled is not None:
        splits["unlabelled"], others = read_unlabelled(task, splits, dropped, progress)
        files |= {f"{UNLABELLED}{file.name}": sha256_of(file) for file in others}
    dropped = +dropped
    for reason, count in dropped.items():
        logger.info("Left out %d rows with %s.", count, reason)
    summary = DataSummary(
        rows={name: len(rows) for name, rows in splits.items()},
        dropped=dict(dropped),
        label_names=names,
        majority_label=label,
        majority_baseline=share,
        carved=carved,
        shared_texts=shared,
        sha256=files,
    )
    return TaskData(DatasetDict(splits), summary)


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


def _check_rows(splits: Mapping[str, Dataset], carved: list[str], dropped: Counter[str], dataset: str) -> None:
    for name in SPLITS:
        if len(splits[name]) == 0:
            sizes = ", ".join(f"{split} {len(splits[split])}" for split in SPLITS)
            left_out = ", ".join(f"{count} with {reason}" for reason, count in dropped.items()) or "none"
            fix = f"give `split: {{{name}: ...}}` a larger share" if name in carved else f"give the {name} file rows"
            raise DataError(
                f"The {name} split of '{dataset}' is empty.",
                f"Rows: {sizes}; left out: {left_out}.",
                f"Use more data, or {fix}.",
            )


def _warn_of_unseen(task: Task, train: Dataset, names: list[str]) -> None:
    seen = task.seen_labels(train)
    if unseen := [name for index, name in enumerate(names) if index not in seen]:
        logger.warning("No training row has the label %s.", ", ".join(unseen))
