"""How alike layers are, which of two models to pair, and which of one stand for all, or do the most."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_SUBSETS = 10_000  # that are compared one by one
SAME = 1e-9  # a smaller difference of two sums of similarities is rounding


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
    ours = torch.stack([_gram_direction(x) for x in student])
    theirs = ours if teacher is student else torch.stack([_gram_direction(x) for x in teacher])
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


def representatives(similarity: Tensor, count: int) -> list[int]:
    r"""The rows that together stand best for all: each is stood for by the one of them that is most like it.

    .. math:: \max_{|S| = k} \sum_j \max_{i \in S} S_{ij}

    All choices are compared where there are at most :data:`MOST_SUBSETS`. Of more, one row after the other is added,
    the best each time, and then rows are exchanged, one for one, for as long as that is any better (k-medoids).

    Args:
        similarity: ``[items, items]``.
        count: How many to choose, k.

    Returns:
        Their numbers in order, from 0; of equally good choices the last: where two are like each other and no others,
        either will do.
    """
    items = range(len(similarity))
    if math.comb(len(similarity), count) <= MOST_SUBSETS:
        return list(_best(similarity, list(itertools.combinations(items, count)))[0])
    chosen: tuple[int, ...] = ()
    reached = 0.0
    for _ in range(count):
        chosen, reached = _best(similarity, [(*chosen, one) for one in items if one not in chosen])
    while True:
        others = [one for one in items if one not in chosen]
        exchanged = [(*chosen[:at], one, *chosen[at + 1 :]) for at in range(count) for one in others]
        better, worth = _best(similarity, exchanged)
        if worth <= reached + SAME:
            return sorted(chosen)
        chosen, reached = better, worth


def most_influential(states: Sequence[Tensor], count: int) -> list[int]:
    r"""The layers that turn what they read the most.

    .. math:: 1 - \frac{1}{n} \sum_i \cos(x_{l-1, i}, x_{l, i})

    Args:
        states: What the first layer reads and what each gives, ``[items, width]``.
        count: How many to choose.

    Returns:
        Their numbers in order, from 0; of equally good ones the first.

    References:
        Men et al. (2024), arXiv:2403.03853, block influence.
    """
    influence = [1 - F.cosine_similarity(*pair, dim=-1).double().mean() for pair in itertools.pairwise(states)]
    return sorted(torch.stack(influence).argsort(descending=True, stable=True)[:count].tolist())


def _best(similarity: Tensor, choices: list[tuple[int, ...]]) -> tuple[tuple[int, ...], float]:
    worth = similarity[torch.tensor(choices, dtype=torch.long)].amax(dim=1).sum(dim=-1)  # [choices]
    best = int((worth >= worth.max() - SAME).nonzero()[-1])
    return choices[best], float(worth[best])


def _gram_direction(representation: Tensor) -> Tensor:
    """The centred Gram matrix as a unit vector, ``[items²]``; zero without any variation."""
    x = representation.double()
    x = x - x.mean(0)
    scale = x.abs().max()
    gram = ((x / scale) @ (x / scale).t() if scale > 0 else x @ x.t()).flatten()
    norm = gram.norm()
    return gram / norm if norm > 0 else gram
