"""Rows a batch at a time, so that columns of tokens never stand in memory as lists of Python numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

ROWS = 1000
BYTES = 2_000_000  # of texts; tokenized with places and windows they take a hundred times as much


class Lists(NamedTuple):
    """Numbers of some rows, so many of each: a column of lists, or what scoring keeps of a model's outputs.

    Attributes:
        values: Those of all rows, one row after the other, ``[values, ...]``.
        counts: How many of them each row has, ``[rows]``.
    """

    values: NDArray[Any]
    counts: NDArray[np.int64]

    def where(self, chosen: NDArray[np.bool_]) -> Lists:
        """Some of the values, ``[values]`` being true for these."""
        before = np.concatenate([[0], np.cumsum(chosen)])  # [values + 1]
        ends = np.cumsum(self.counts)
        return Lists(self.values[chosen], before[ends] - before[ends - self.counts])

    def by_row(self) -> list[NDArray[Any]]:
        """The values of each row."""
        return np.split(self.values, np.cumsum(self.counts)[:-1])


def list_batches(rows: Dataset, column: str) -> Iterator[Lists]:
    """A column of lists of numbers, in batches of rows."""
    for lists in _arrow(rows, column):
        yield Lists(lists.flatten().to_numpy(zero_copy_only=False), _counts(lists))


def list_counts(rows: Dataset, column: str) -> NDArray[np.int64]:
    """How many items each row of a column of lists has, ``[rows]``."""
    return np.concatenate([np.zeros(0, dtype=np.int64), *map(_counts, _arrow(rows, column))])


def _arrow(rows: Dataset, column: str) -> Iterator[Any]:
    for table in rows.select_columns(column).with_format("arrow").iter(ROWS):
        yield table[column].combine_chunks()


def _counts(lists: Any) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return counts


def map_texts(rows: Dataset, encode: Callable[..., Any], *, with_indices: bool = False, **arguments: Any) -> Dataset:
    """Rows with what ``encode`` makes of their columns, in batches of no more text than memory has room for.

    Blocks that texts are packed into end where a batch does.

    Args:
        rows: Clean rows.
        encode: From the columns of a batch to those of the result.
        with_indices: Whether it takes the numbers of the rows, too.
        **arguments: Its further arguments, ``tokenizer`` among them.
    """
    with _unchanged(arguments["tokenizer"]):
        return rows.map(
            encode,
            batched=True,
            batch_size=batch_size(rows),
            with_indices=with_indices,
            fn_kwargs=arguments,
            remove_columns=rows.column_names,
            desc="Tokenizing",
        )


@contextmanager
def _unchanged(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Leaves a tokenizer cutting and padding as it did: what it was last asked to do would be saved with it."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    truncation, padding = getattr(fast, "truncation", None), getattr(fast, "padding", None)
    try:
        yield
    finally:
        if fast is not None:
            fast.enable_truncation(**truncation) if truncation else fast.no_truncation()
            fast.enable_padding(**padding) if padding else fast.no_padding()


def batch_size(rows: Dataset) -> int:
    """How many rows have about 2 MB of text, at most 1,000: by the mean of their table, for which no text is read."""
    table = rows.data
    return max(1, min(ROWS, BYTES * int(table.num_rows) // max(1, int(table.nbytes))))
