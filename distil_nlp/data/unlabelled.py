"""Text without labels, for a teacher to label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from datasets import Dataset

from distil_nlp.data.batches import ROWS
from distil_nlp.data.read import read
from distil_nlp.data.split import content_key, unknown_rows
from distil_nlp.data.tasks import Task
from distil_nlp.errors import DataError

HELD_OUT = "in validation or test"
WITH_OTHERS = ("text_pair", "group")  # what ties a text to other texts


def read_unlabelled(
    task: Task, splits: Mapping[str, Dataset], dropped: Counter[str], progress: Callable[[str], None]
) -> tuple[Dataset, list[Path]]:
    """Reads the rows of ``task.unlabelled``: of a folder or a data set of the Hub, one split.

    Args:
        task: What is learned; the rows have the columns with its texts.
        splits: Its clean rows. A text that is in validation or test is left out.
        dropped: Counts the rows left out, by reason.
        progress: Called with one line for each step that takes time.

    Returns:
        Clean rows with the columns of the labelled ones, labels being None, and the files that were read.

    Raises:
        UnresolvedReferenceError: There is no such data, or it cannot be had now.
        DataError: It cannot be read, lacks a column, or no row is left.
    """
    reasons: Counter[str] = Counter()
    rows, files = read_texts(task, task.settings.unlabelled, splits, reasons, progress)
    for reason, count in reasons.items():
        dropped[f"unlabelled, {reason}"] += count
    return rows, files


def of_texts_alone(task: Task) -> Task:
    """The task for texts each of which is by itself: without a second text, or a group."""
    fields = type(task.settings).model_fields
    settings = task.settings.model_copy(update={key: None for key in WITH_OTHERS if key in fields})
    return type(task)(settings, task.read_json)


def read_texts(
    task: Task,
    section: Any,
    splits: Mapping[str, Dataset],
    dropped: Counter[str],
    progress: Callable[[str], None],
) -> tuple[Dataset, list[Path]]:
    """Reads text without labels: of a folder or a data set of the Hub, one split.

    Args:
        task: As for :func:`read_unlabelled`.
        section: Where the text is, as ``task.unlabelled`` says it.
        splits: Clean rows with labels. A text that is in validation or test is left out.
        dropped: Counts the rows left out, by reason.
        progress: Called with one line for each step that takes time.

    Returns:
        Clean rows with the task's columns, labels being None, and the files that were read.

    Raises:
        UnresolvedReferenceError: There is no such data, or it cannot be had now.
        DataError: It cannot be read, lacks a column, or no row is left.
    """
    names = None if section.split is None else {"train": section.split}
    where = section.model_dump(exclude={"split", "columns"})
    settings = task.settings.model_copy(update={**where, **section.columns, "split_names": names})
    other = type(task)(settings, task.read_json)
    raw = read(settings, other.text_columns, progress)
    reasons: Counter[str] = Counter()
    rows = other.clean_texts(raw.splits["train"], reasons)
    kept, left_out = unknown_rows(keys_of(task, rows), held_out(task, splits))
    dropped.update(reasons + left_out)
    if not kept:
        found = ", ".join(f"{count} with {reason}" for reason, count in reasons.items() if count) or "It has no rows"
        found += f", {left_out[HELD_OUT]} {HELD_OUT}" if left_out else ""
        raise DataError(f"No text of '{settings.dataset}' can be learned from.", f"{found}.", "Use other text.")
    labelled = splits["train"].select_columns([name for name in splits["train"].column_names if name in task.columns])
    return like(rows.select(kept), labelled), raw.files


def held_out(task: Task, splits: Mapping[str, Dataset]) -> dict[str, set[bytes]]:
    """The keys of texts that a student must not see, by the reason for it."""
    return {HELD_OUT: {key for name in ("validation", "test") for key in known_keys(task, splits[name])}}


def keys_of(task: Task, rows: Dataset) -> Iterator[bytes]:
    """The key of each row's texts, which are read a batch at a time; a text that is missing is passed over."""
    for start in range(0, len(rows), ROWS):
        yield from map(_key, task.texts(rows.select(range(start, min(start + ROWS, len(rows))))))


def known_keys(task: Task, rows: Dataset) -> set[bytes]:
    """The keys of rows, and of each of their texts where rows without labels have one alone."""
    found = task.texts(rows)
    several = (texts for texts in found if len(texts) > 1) if len(task.text_columns) == 1 else ()
    return {_key(texts) for texts in chain(found, ((text,) for texts in several for text in texts))}


def _key(texts: tuple[str, ...]) -> bytes:
    return content_key(*filter(None, texts))


def like(rows: Dataset, labelled: Dataset) -> Dataset:
    """Rows with the columns of others; what they lack is None."""
    for name, feature in labelled.features.items():
        if name not in rows.column_names:
            rows = rows.add_column(name, [None] * len(rows), feature=feature)
    return rows.select_columns(labelled.column_names).cast(labelled.features)
