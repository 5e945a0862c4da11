"""What an evaluation says of the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers.trainer_pt_utils import find_batch_size

from distil_nlp.objectives import Objective


class EvaluatedTerms:
    r"""The terms of an evaluation, over all its batches as if they were one step.

    .. math:: \frac{1}{n_o} \sum_{i=1}^{n_o} \ell_o(i)

    over the :math:`n_o` items of an objective in all batches: how rows are cut into batches does not matter, and
    batches without any item of it do not count.

    Args:
        objectives: The terms' objectives.
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self._objectives = objectives
        self._batches: list[Tensor] = []

    def add(self, terms: Sequence[Tensor], counts: Tensor) -> None:
        """Takes in a batch.

        Args:
            terms: As they enter the batch's loss: weighted means over its items.
            counts: Their items, ``[objectives]``.
        """
        counts = counts.to(torch.float32)
        self._batches.append(torch.stack([torch.stack(list(terms)).detach().float() * counts, counts]))

    def metrics(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Each term without its weight by its objective's name, and ``loss``, their weighted sum.

        Args:
            reduce: The mean of a tensor over processes.

        Returns:
            Nothing of objectives that had no items, or have no weight at present.
        """
        if not self._batches:
            return {}
        sums, counts = reduce(torch.stack(self._batches).sum(0)).tolist()
        means = {
            o.name: (total / count, o.factor)
            for o, total, count in zip(self._objectives, sums, counts, strict=True)
            if count and o.factor
        }
        found = {name: mean / factor for name, (mean, factor) in means.items()}
        return found | {"loss": sum(mean for mean, _ in means.values())} if means else {}


def own_rows(batch: Mapping[str, Any], accelerator: Accelerator) -> int | None:
    """How many of a batch's rows no other batch has; None if that is all of them, in every process.

    The last batches are filled up with rows of the first ones, behind their own, so that every process has as many.
    """
    state = accelerator.gradient_state
    if accelerator.num_processes == 1 or not accelerator.even_batches or not state.end_of_dataloader:
        return None
    size = find_batch_size(batch)
    if size is None or not 0 < state.remainder < size * accelerator.num_processes:
        return None
    return min(max(state.remainder - size * accelerator.process_index, 0), size)
