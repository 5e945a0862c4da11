"""How alike the layers of two models are, and which to pair."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def linear_cka(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    r"""Linear centred kernel alignment between each student and each teacher representation of the same items.

    .. math:: \frac{\| Y^\top X \|_F^2}{\| X^\top X \|_F \, \| Y^\top Y \|_F}

    with X and Y centred over the items. 1 where one is a rotation and scaling of the other; widths may differ. Computed
    from the Gram matrices :math:`X X^\top`: ``items²`` numbers for each representation.

    Args:
        student: Representations ``[items, width]``.
        teacher: Likewise, of the same items; the width may be another.

    Returns:
        ``[len(student), len(teacher)]``, float64; 0 for a representation that is the same for all items.

    References:
        Kornblith et al. (2019), arXiv:1905.00414, section 3 (linear CKA).
    """
    ours, theirs = (torch.stack([_gram_direction(x) for x in side]) for side in (student, teacher))
    return ours @ theirs.t()


def monotone_path(similarity: Tensor) -> list[int]:
    r"""The non-decreasing choice of a column for each row with the largest sum.

    .. math:: \max_{j_1 \le \dots \le j_M} \sum_i S_{i j_i}

    Args:
        similarity: ``[rows, columns]``.

    Returns:
        The column of each row, from 0; of equally good ones the first.
    """
    values = similarity.double().tolist()
    best = [0.0] * len(values[0])
    came_from: list[list[int]] = []
    for row in values:
        columns, reached = [], []
        top = 0  # the best column up to here
        for column, value in enumerate(row):
            if best[column] > best[top]:
                top = column
            columns.append(top)
            reached.append(best[top] + value)
        came_from.append(columns)
        best = reached
    column = max(range(len(best)), key=lambda index: (best[index], -index))
    path = []
    for columns in reversed(came_from):
        path.append(column)
        column = columns[column]
    return path[::-1]


def _gram_direction(representation: Tensor) -> Tensor:
    """The centred Gram matrix as a unit vector, ``[items²]``; zero without any variation."""
    x = representation.double()
    x = x - x.mean(0)
    scale = x.abs().max()
    gram = ((x / scale) @ (x / scale).t() if scale > 0 else x @ x.t()).flatten()
    norm = gram.norm()
    return gram / norm if norm > 0 else gram
