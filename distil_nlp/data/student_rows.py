"""The rows that a student is trained on: the labelled ones, and those that only its teacher labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from distil_nlp.data.augment import Augmentation, augmented
from distil_nlp.data.split import unknown_rows
from distil_nlp.data.tasks import Task
from distil_nlp.data.unlabelled import held_out, keys_of, known_keys
from distil_nlp.errors import DataError

REPEATED = "that repeat a text"


class StudentRows(NamedTuple):
    """A student's training rows.

    Attributes:
        rows: Tokenized, the labelled ones first.
        augmented: How many of them are copies with changed words.
    """

    rows: Dataset
    augmented: int


def student_rows(
    task: Task,
    splits: Mapping[str, Dataset],
    labelled: Dataset,
    *,
    tokenizer: PreTrainedTokenizerBase,
    copies: Dataset | None,
) -> StudentRows:
    """Adds unlabelled text and copies of the training rows to the labelled rows.

    Args:
        task: What is learned.
        splits: Clean rows.
        labelled: The training rows, tokenized.
        tokenizer: What tokenizes the others.
        copies: What :func:`new_copies` gives; None for none.
    """
    extra = unlabelled_rows(splits, copies)
    if not extra:
        return StudentRows(labelled, 0)
    others = task.tokenize(concatenate_datasets(extra), tokenizer)
    return StudentRows(concatenate_datasets([labelled, others]), 0 if copies is None else len(copies))


def unlabelled_rows(splits: Mapping[str, Dataset], copies: Dataset | None) -> list[Dataset]:
    """Clean rows beside the labelled ones: unlabelled text, and copies."""
    given = [splits["unlabelled"]] if "unlabelled" in splits else []
    return given if copies is None else [*given, copies]


def new_copies(
    task: Task, splits: Mapping[str, Dataset], how: Augmentation, progress: Callable[[str], None]
) -> Dataset:
    """Copies of the training rows without those that repeat one of them or each other, or a text held out.

    Raises:
        DataError: No copy differs from all other texts.
    """
    train = splits["train"]
    copies = augmented(train, list(task.text_columns), how)
    known = held_out(task, splits)
    known[REPEATED] = known_keys(task, train)
    kept, left_out = unknown_rows(keys_of(task, copies), known, once=REPEATED)
    without = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
    progress(f"augmented: {len(kept):,} copies" + (f"; without {without}" if without else ""))
    if not kept:
        raise DataError(
            f"The {len(train):,} training rows were to be augmented.",
            f"No copy differs from all other texts ({len(copies):,} made).",
            "Give `augment` other methods or higher probabilities, or leave it out.",
        )
    return copies.select(kept)
