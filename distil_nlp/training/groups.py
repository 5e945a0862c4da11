"""Batches of whole groups of rows."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, DataLoader, IterableDataset
from transformers import Trainer
from transformers.trainer_utils import seed_worker

from distil_nlp.errors import ModelError
from distil_nlp.training.sampler import seed_of

logger = logging.getLogger(__name__)

GROUP = "group"
_LOADER = (
    "num_workers",
    "pin_memory",
    "persistent_workers",
    "prefetch_factor",
    "multiprocessing_context",
    "in_order",
)


class GroupBatchSampler(BatchSampler):
    """Micro-batches in which the rows of a group are side by side, in an order that seed and epoch decide.

    A micro-batch has as many groups as there is room for, each of them whole. A group that is larger than a micro-batch
    is cut, anew in each epoch, into parts as even as can be. Groups of which sizes share a micro-batch is the same in
    each epoch, so that all epochs have as many; which groups these are is drawn. Where micro-batches are too few for
    all processes to have as many, some come twice.

    Args:
        groups: The group of each row, ``[rows]``.
        batch_size: Rows in a micro-batch, at most.
        seed: Of the order, together with the epoch.
        processes: Which share the micro-batches.
    """

    def __init__(self, groups: NDArray[Any], batch_size: int, *, seed: int, processes: int = 1) -> None:
        order = np.argsort(groups, kind="stable")
        self.rows = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)  # of each group
        self.room, self.seed, self.processes, self.epoch = batch_size, seed, processes, 0
        self.shapes = _fill((len(part) for rows in self.rows for part in self._parts(rows)), batch_size)
        # accelerate asks it for the number of rows, and passes the epoch on to it.
        self.batch_size, self.drop_last, self.sampler = None, False, self  # type: ignore[assignment]

    def _parts(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        return np.array_split(rows, -(-len(rows) // self.room))

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.shapes) // self.processes) * self.processes

    def __iter__(self) -> Iterator[list[int]]:
        dice = np.random.default_rng([self.seed, self.epoch])
        waiting: dict[int, list[NDArray[np.int64]]] = defaultdict(list)  # by size
        for group in dice.permutation(len(self.rows)):
            rows = self.rows[group]
            for part in self._parts(dice.permutation(rows) if len(rows) > self.room else rows):
                waiting[len(part)].append(part)
        shapes = [self.shapes[number] for number in dice.permutation(len(self.shapes))]
        batches = [[int(row) for size in shape for row in waiting[size].pop()] for shape in shapes]
        return islice(cycle(batches), len(self))


def _fill(sizes: Iterable[int], room: int) -> list[list[int]]:
    """Puts each size, the largest first, into the batch with the least room that is enough for it."""
    batches: list[list[int]] = []
    by_room: list[list[list[int]]] = [[] for _ in range(room + 1)]
    for size in sorted(sizes, reverse=True):
        left = next((left for left in range(size, room + 1) if by_room[left]), None)
        if left is None:
            batches.append([])
        batch = batches[-1] if left is None else by_room[left].pop()
        batch.append(size)
        by_room[(room if left is None else left) - size].append(batch)
    return batches


def loader_by_group(trainer: Trainer) -> Any:
    """A loader of micro-batches of whole groups; in all else it is transformers' own.

    No micro-batch is the last one, which ``dataloader_drop_last`` could drop.

    Args:
        trainer: Its training rows have the column ``group``, and it reads that, or else there is none. With
            ``train_sampling_strategy="sequential"`` rows come as they are.

    Raises:
        ModelError: if batches are to be made by length, or to be cut.
    """
    args, accelerator, room = trainer.args, trainer.accelerator, trainer._train_batch_size
    groups = _groups(trainer)
    if groups is None:
        return None
    rows: Any = trainer.train_dataset
    collate = trainer.data_collator
    if isinstance(rows, Dataset):
        rows = trainer._remove_unused_columns(rows, description="Training")
    else:
        collate = trainer._get_collator_with_removed_columns(collate, description="Training")
    for name in ("split_batches", "dispatch_batches"):
        if getattr(accelerator, name):
            raise ModelError(
                f"The rows of a group (column '{GROUP}') come side by side, in one micro-batch of one process.",
                f"accelerator_config has '{name}', which would cut batches anew.",
                f"Leave it out, or drop the column '{GROUP}'.",
            )
    sampler = GroupBatchSampler(groups, room, seed=seed_of(args), processes=args.world_size)
    if larger := sum(len(rows) > room for rows in sampler.rows):
        logger.warning("%d groups have more rows than a micro-batch (%d), and are cut in each epoch.", larger, room)
    loader: DataLoader[Any] = DataLoader(
        rows,
        batch_sampler=sampler,
        collate_fn=collate,
        worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
        **{name: getattr(args, f"dataloader_{name}") for name in _LOADER if hasattr(args, f"dataloader_{name}")},
    )
    even, accelerator.even_batches = accelerator.even_batches, False  # they are of any size, and as many for all
    try:
        return accelerator.prepare(loader)
    finally:
        accelerator.even_batches = even


def _have_groups(rows: Any) -> bool:
    """Of a stream, if it says which columns it has."""
    columns = getattr(rows, "column_names", None)
    if columns is None and hasattr(rows, "__len__") and not isinstance(rows, IterableDataset) and len(rows):
        columns = rows[0] if isinstance(rows[0], Mapping) else None
    return GROUP in (columns or ())


def _groups(trainer: Trainer) -> NDArray[Any] | None:
    """The group of each training row, where rows have one, and batches are to have it."""
    rows: Any = trainer.train_dataset
    strategy = trainer.args.train_sampling_strategy
    trainer._set_signature_columns_if_needed()
    read = GROUP in (trainer._signature_columns or ())
    if not read or strategy == "sequential" or not _have_groups(rows):
        return None
    if isinstance(rows, IterableDataset):
        raise ModelError(
            f"The rows of a group (column '{GROUP}') come side by side, in an order that is drawn.",
            "They come as a stream, whose length is not known.",
            "Give a datasets.Dataset; or have the stream bring groups side by side, whole in each micro-batch, and "
            "say so by train_sampling_strategy='sequential'.",
        )
    if strategy != "random":
        raise ModelError(
            f"The rows of a group (column '{GROUP}') come side by side.",
            f"train_sampling_strategy is '{strategy}', which would scatter them.",
            f"Leave it out, or drop the column '{GROUP}'.",
        )
    groups = np.asarray(rows[GROUP][:] if isinstance(rows, Dataset) else [rows[at][GROUP] for at in range(len(rows))])
    if groups.dtype.kind != "i":
        raise ModelError(
            f"The rows of a group have the same whole number in the column '{GROUP}'.",
            f"It holds {rows.features[GROUP] if isinstance(rows, Dataset) else groups.dtype}.",
            f"Number the groups, or drop the column '{GROUP}'.",
        )
    return groups
