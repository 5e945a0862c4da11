"""Batches of rows of like length, in an order that depends on seed and epoch alone."""

from __future__ import annotations

import torch
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
