"""The one place where a loss is divided by a count."""

from __future__ import annotations

from torch import Tensor


def mean_over(values: Tensor, count: Tensor | float | None = None) -> Tensor:
    """Sums items and divides by how many there are.

    ``sum(values) / count``: with ``count`` taken over all micro-batches and processes of one optimizer step, the
    gradients of the parts add up to the gradient of one big batch.

    Args:
        values: One value per item, any shape; may be empty (the result is then 0, and still carries a gradient).
        count: Items in the whole step; the number of ``values`` if None.
    """
    total = values.sum()
    if count is None:
        return total / max(values.numel(), 1)
    return total / count
