"""Batches of rows of like length, in an order that depends on seed and epoch alone."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler


class SeededLengthGroupedSampler(LengthGroupedSampler):
    """transformers' ``group_by_length``, made reproducible.

    transformers draws each epoch's order from the global random state, so that it depends on how much dropout was
    drawn before: a resumed run, or a control beside its student, could see other batches.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows in an optimizer step.
        seed: Of the order, together with the epoch.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch."""
        self.generator.manual_seed(self.seed + epoch)


def seed_of(args: TrainingArguments) -> int:
    """The seed of the order of rows."""
    return int(args.seed if args.data_seed is None else args.data_seed)


def seeded(sampler: Any, args: TrainingArguments) -> Any:
    """A sampler of transformers, reproducible."""
    if isinstance(sampler, LengthGroupedSampler):
        return SeededLengthGroupedSampler(sampler.lengths, sampler.batch_size, seed_of(args))
    return sampler
