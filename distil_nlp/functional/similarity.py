"""Distances between representations."""

from __future__ import annotations

import torch
from torch import Tensor

from distil_nlp.functional.precision import precise, precise_pair

SHORTEST = 1e-20  # square of the length below which a vector has no direction


def mean_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean squared difference over the width: :math:`\frac{1}{d} \| h_s - h_t \|^2`.

    Args:
        student: ``[..., width]``.
        teacher: ``[..., width]``.

    Returns:
        ``[...]``, in float32, or in float64 if either side is.

    References:
        Romero et al. (2015), arXiv:1412.6550, eq. 3 (a mean over the width instead of half a sum).
        Jiao et al. (2020), arXiv:1909.10351, eq. 9.
    """
    student, teacher = precise_pair(student, teacher)
    return (student - teacher).square().mean(-1)


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    r"""One minus the cosine: :math:`1 - \frac{h_s \cdot h_t}{\|h_s\| \|h_t\|}`; 1 where either is zero.

    Args:
        student: ``[..., width]``.
        teacher: ``[..., width]``.

    Returns:
        ``[...]``, in float32, or in float64 if either side is.

    References:
        Sanh et al. (2019), arXiv:1910.01108, section 2 (``L_cos``).
    """
    return 1 - (unit(student) * unit(teacher)).sum(-1)


def normalized_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Squared distance of directions: :math:`\| h_s / \|h_s\| - h_t / \|h_t\| \|^2 = 2 - 2 \cos(h_s, h_t)`.

    Summed over the width, not averaged, so that it lies between 0 and 4 for any width.

    Args:
        student: ``[..., width]``.
        teacher: ``[..., width]``.

    Returns:
        ``[...]``, in float32, or in float64 if either side is.

    References:
        Sun et al. (2019), arXiv:1908.09355, section 3.2 (their code averages over the width).
    """
    return (unit(student) - unit(teacher)).square().sum(-1)


def unit(vectors: Tensor, dim: int | tuple[int, ...] = -1) -> Tensor:
    """Scales to length 1 along ``dim``; zeros, and their gradient, stay zero.

    Args:
        vectors: Any shape.
        dim: Dimension, or dimensions taken together.

    Returns:
        The same shape, float32 (float64 for float64).
    """
    vectors = precise(vectors)
    squares = vectors.square().sum(dim, keepdim=True)
    return vectors * torch.where(squares > SHORTEST, squares.clamp(min=SHORTEST).rsqrt(), 0.0)
