"""Predictions over a split, in batches of rows of like length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

Batch = Mapping[str, NDArray[Any]]


class PaddedBatches:
    """A split's rows as padded numpy batches, sorted by length so that little is padding.

    Args:
        rows: Tokenized rows, with ``labels``.
        collator: Pads a list of rows.
        batch_size: Rows in a batch.
        description: Shown beside the progress bar.
    """

    def __init__(
        self, rows: Any, collator: Callable[[list[Any]], Any], *, batch_size: int, description: str = ""
    ) -> None:
        self.rows, self.collator, self.batch_size, self.description = rows, collator, batch_size, description
        lengths = [len(ids) for ids in rows["input_ids"]]
        self.order = np.argsort(lengths, kind="stable")

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        starts = range(0, len(self.order), self.batch_size)
        for start in tqdm(starts, desc=self.description, leave=False, disable=None if self.description else True):
            chosen = [self.rows[int(row)] for row in self.order[start : start + self.batch_size]]
            batch = self.collator([{k: v for k, v in row.items() if k != "labels"} for row in chosen])
            yield {name: np.asarray(value) for name, value in batch.items()}

    def samples(self, count: int) -> list[Batch]:
        """A few batches of different lengths."""
        batches = list(PaddedBatches(self.rows, self.collator, batch_size=self.batch_size))
        return [batches[index] for index in np.linspace(0, len(batches) - 1, min(count, len(batches)), dtype=int)]

    def logits(self, outputs: Sequence[Mapping[str, NDArray[Any]]]) -> NDArray[np.float32]:
        """Puts the ``logits`` of each batch together, in the rows' own order: ``[rows, labels]``."""
        together = np.concatenate([output["logits"] for output in outputs])
        restored = np.empty_like(together, dtype=np.float32)
        restored[self.order] = together
        return restored
