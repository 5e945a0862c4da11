"""Distances that ask for the same relations, not for the same values."""

from __future__ import annotations

import torch
from torch import Tensor

from distil_nlp.functional.precision import precise


def pearson_distance(student: Tensor, teacher: Tensor, *, dim: int = -1) -> Tensor:
    r"""One minus Pearson's correlation.

    .. math:: 1 - \frac{\sum_v (s_v - \bar s)(t_v - \bar t)}{\|s - \bar s\| \, \|t - \bar t\|}

    It does not change with the scale or the mean of either side. A teacher that is constant, but for rounding, has no
    relation to copy: the distance is 0. Where only the student is, it is 1. Neither has a gradient.

    Args:
        student: Any shape.
        teacher: The same shape.
        dim: The dimension that the sums run over.

    Returns:
        The shape without ``dim``, 0 to 2, in the dtype of the input.

    References:
        Huang et al. (2022), arXiv:2205.10536. The authors' code adds 1e-8 to the denominator, which is
        more than all of it for the probabilities of a large vocabulary; here constants are told apart instead.
    """
    ours, norm, flat = _centre(student, dim)
    theirs, their_norm, nothing_to_copy = _centre(teacher, dim)
    theirs = theirs / their_norm.unsqueeze(dim)  # first: a product of two small norms would be lost
    correlation = ((ours * theirs).sum(dim) / norm).masked_fill(flat, 0.0)
    return (1 - correlation).masked_fill(nothing_to_copy, 0.0)


def relation_distance(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    r"""Pearson distances between predictions, over the classes of an item and over the items of a class.

    .. math:: T^2 \Big[ \beta \, d(p_s(i, \cdot), p_t(i, \cdot)) +
        \frac{\gamma}{C} \sum_{v=1}^{C} d(p_s(\cdot, v), p_t(\cdot, v)) \Big], \quad p = softmax(z / T)

    The second part is one number for all the items; each item has the whole of it, so that the mean over items is that
    number plus the mean of the first part.

    Args:
        student_logits: ``[items, classes]``.
        teacher_logits: ``[items, classes]``.
        beta: Weight of the relation between the classes of an item.
        gamma: Weight of the relation between the items of a class; 0 for a single item.
        temperature: T.

    Returns:
        ``[items]``, float32 (float64 for float64 input).

    References:
        Huang et al. (2022), arXiv:2205.10536, as in the authors' ``dist_kd.py``, T² included.
    """
    student, teacher = (torch.softmax(precise(z) / temperature, dim=-1) for z in (student_logits, teacher_logits))
    between_classes = pearson_distance(student, teacher)  # [items]
    between_items = pearson_distance(student, teacher, dim=0).mean()
    return (beta * between_classes + gamma * between_items) * temperature**2


def _centre(values: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Deviations from the mean; their norm, without ``dim``; and which vectors are constant, whose norm is then 1."""
    limits = torch.finfo(values.dtype)
    mean = values.mean(dim, keepdim=True)
    centred = values - mean
    norm = torch.linalg.vector_norm(centred, dim=dim)
    rounding = 8 * limits.eps * values.shape[dim] ** 0.5 * mean.detach().abs().squeeze(dim)
    constant = norm <= rounding + limits.tiny**0.5  # squares below `tiny` are lost
    return centred, torch.where(constant, 1.0, norm), constant
