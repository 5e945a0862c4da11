"""The rows of one store, and the teacher that makes those that it lacks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Sequence

import torch
from torch import nn

from distil_nlp.errors import ModelError, TrainingError
from distil_nlp.signals import Batch, Needs, Signals
from distil_nlp.teachers.base import Teacher
from distil_nlp.teachers.catalogue import load_head, save_head
from distil_nlp.teachers.packing import Packing
from distil_nlp.teachers.records import HEAD_INPUTS, Contents, rows_from, signals_of
from distil_nlp.teachers.row_keys import Rows, rows_of, with_right_padding
from distil_nlp.teachers.store import OutputStore, Row, row_bytes


class Recording:
    """Gives a batch's rows out of a store; runs the teacher on those that are not there, and stores them.

    Args:
        store: The rows.
        contents: What is stored of each.
        packing: How precisely.
        teacher: Loads the teacher, or gives the loaded one.
        input_names: Columns that the teacher reads.
        device: Where the teacher runs.
    """

    def __init__(
        self,
        store: OutputStore,
        contents: Contents,
        packing: Packing,
        *,
        teacher: Callable[[], Teacher],
        input_names: Collection[str],
        device: torch.device,
    ) -> None:
        self.store, self.contents, self.device = store, contents, device
        self._packing, self._teacher, self._input_names = packing, teacher, input_names
        self._running: Teacher | None = None
        self._head: nn.Linear | None = None
        self._expected_rows, self._budget_mb = 0, float("inf")

    def expect(self, rows: int, budget_mb: float) -> None:
        """Sets how many rows there will be, if that is known (or else 0), and how large the store may get."""
        self._expected_rows, self._budget_mb = rows, budget_mb

    def running(self) -> Teacher:
        """The teacher, ready to run."""
        if self._running is None:
            self._running = self._teacher()
            self._running.prepare(self.contents.needs, self.device)
        return self._running

    def signals(self, batch: Batch, needs: Needs) -> Signals:
        """Signals for a batch, as its stored rows have them."""
        rows = self._describe(batch)
        stored = self._complete(batch, rows)
        head = self._vocabulary_head(batch) if HEAD_INPUTS in stored[0] else None
        return signals_of(stored, batch, rows, self.contents, needs, head)

    def rows(self, batch: Batch) -> list[Row]:
        """A batch's rows, all of them."""
        return self._complete(batch, self._describe(batch))

    def _describe(self, batch: Batch) -> Rows:
        return rows_of(batch, self._input_names, item=self.contents.item, by_item=self.contents.by_item)

    def _complete(self, batch: Batch, rows: Rows) -> list[Row]:
        found = [self.store.get(key) for key in rows.keys]
        if None in found:
            self.store.refresh()  # other processes may have stored them
            found = [self.store.get(key) for key in rows.keys]
        if missing := [number for number, row in enumerate(found) if row is None]:
            for number, row in zip(missing, self._compute(batch, rows, missing), strict=True):
                found[number] = row
                self.store.add(rows.keys[number], row)
        return [row for row in found if row is not None]

    def _compute(self, batch: Batch, rows: Rows, missing: list[int]) -> list[Row]:
        """Runs the teacher on some rows of a batch."""
        part = with_right_padding(batch, rows, missing)
        with torch.no_grad():
            signals = self.running()(part, self.contents.needs)
        made = rows_from(signals, part, self._describe(part), self.contents, self._packing)
        self._check_size(made)
        if signals.vocabulary is not None and self._head is None:
            self._head = signals.vocabulary.linear
            save_head(self.store.folder, self._head)
        return made

    def _check_size(self, made: Sequence[Row]) -> None:
        """Refuses what would not fit; the first rows tell, where it is known how many there will be."""
        size, rows = self.store.num_bytes + sum(map(row_bytes, made)), len(self.store) + len(made)
        expected, self._expected_rows = max(rows, self._expected_rows), 0
        predicted = size / rows * expected
        free = shutil.disk_usage(self.store.folder).free
        too_much = f"budget_mb={self._budget_mb:g}" if predicted > self._budget_mb * 1e6 else ""
        if predicted - size > free:
            too_much = f"the {free / 1e6:,.0f} MB that are free on the disk"
        if too_much:
            raise TrainingError(
                f"A teacher's outputs on {expected:,} rows were to be stored in {self.store.folder}.",
                f"They take about {predicted / 1e6:,.1f} MB ({size / rows / 1e3:,.1f} kB a row), more than {too_much}.",
                "Use dtype='float16' or 'int8', top_k, fewer layers, another folder or a larger budget_mb; or the "
                "teacher without a store. What is stored so far is kept.",
            )

    def _vocabulary_head(self, batch: Batch) -> nn.Linear:
        """The head whose inputs are stored, from its file if the teacher has not run."""
        if self._head is None:
            self._head = load_head(self.store.folder)
        if self._head is None:
            with torch.no_grad():
                seen = self.running()(batch, self.contents.needs).vocabulary
            self._head = None if seen is None else seen.linear
        if self._head is None:
            raise ModelError(
                f"The vocabulary head of the outputs stored in {self.store.folder} is needed.",
                "Its file is damaged or gone, and the teacher gives none.",
                "Give the teacher that they are of, or delete the folder.",
            )
        return self._head.to(self.device)
