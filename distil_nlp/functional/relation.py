"""How the examples of a batch relate to each other, and how far student and teacher differ in that.

A function's value for an example is a mean over the example's partners in the batch, so that the mean over examples is
the mean over pairs (or triples). An example without partners has the value 0.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from distil_nlp.functional.precision import precise_pair
from distil_nlp.functional.similarity import unit


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Huber loss between pairwise distances, each in units of the batch's mean distance.

    .. math:: \frac{1}{n-1} \sum_{j \ne i} l_1(\psi^s_{ij}, \psi^t_{ij}), \quad
        \psi_{ij} = \frac{\|x_i - x_j\|}{\mu}, \quad \mu = \frac{1}{n(n-1)} \sum_{i \ne j} \|x_i - x_j\|

    where :math:`l_1` is the Huber loss with its bend at 1. Gradients flow through the student's :math:`\mu`, too. Where
    all examples coincide, all potentials are 0.

    Args:
        student: ``[examples, width]``.
        teacher: ``[examples, width]``; the widths may differ. Memory is ``[examples, examples, width]``.

    Returns:
        ``[examples]``, float32 (float64 for float64 input).

    References:
        Park et al. (2019), arXiv:1904.05068, section 3.2.1, as a mean over ordered pairs instead of a sum. The authors'
        code takes the mean over all n² entries, and leaves distances of 0 out of :math:`\mu`.
    """
    student, teacher = precise_pair(student, teacher)
    potentials = []
    for states in (student, teacher):
        distances = _offsets(states)[1]
        mean = _mean_of_pairs(distances)
        potentials.append(distances / torch.where(mean > 0, mean, 1.0))
    return F.smooth_l1_loss(potentials[0], potentials[1], reduction="none").sum(-1) / max(len(student) - 1, 1)


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Huber loss between the angles that pairs of examples form at an example, per vertex.

    .. math:: \frac{1}{(n-1)(n-2)} \sum_{i,k} l_1(\psi^s_{ijk}, \psi^t_{ijk}), \quad
        \psi_{ijk} = \langle e_{ij}, e_{kj} \rangle, \quad e_{ij} = \frac{x_i - x_j}{\|x_i - x_j\|}

    for the vertex j, over ordered pairs of two other examples i and k. Examples that are closer than
    :math:`\sqrt\epsilon` of the mean distance (:math:`\epsilon`: the dtype's) count as one point: what is left of their
    difference is rounding, and :math:`e_{ij} = 0`.

    Args:
        student: ``[examples, width]``.
        teacher: ``[examples, width]``; the widths may differ. Memory is ``[examples, examples, width]``.

    Returns:
        ``[examples]``, float32 (float64 for float64 input); zeros for fewer than three examples.

    References:
        Park et al. (2019), arXiv:1904.05068, section 3.2.2, as a mean over ordered triples of distinct examples instead
        of a sum. The authors' code takes the mean over all n³ entries.
    """
    student, teacher = precise_pair(student, teacher)
    other = _others(student)
    triples = other[:, :, None] & other[:, None, :] & other[None]  # [vertex, i, k]
    losses = F.smooth_l1_loss(_cosines(student), _cosines(teacher), reduction="none")
    count = (len(student) - 1) * (len(student) - 2)
    return losses.masked_fill(~triples, 0.0).sum((1, 2)) / max(count, 1)


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Squared difference between the rows of normalised Gram matrices.

    .. math:: \frac{1}{n} \| G^s_i - G^t_i \|^2, \quad G_i = \frac{x_i X^\top}{\| x_i X^\top \|}

    Args:
        student: ``[examples, width]``.
        teacher: ``[examples, width]``; the widths may differ.

    Returns:
        ``[examples]``, float32 (float64 for float64 input); their mean is :math:`\| G^s - G^t \|_F^2 / n^2`.

    References:
        Tung & Mori (2019), arXiv:1907.09682.
    """
    student, teacher = precise_pair(student, teacher)
    ours, theirs = unit(student @ student.T), unit(teacher @ teacher.T)
    return (ours - theirs).square().mean(-1)


def probability_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    r"""KL divergence between distributions over an example's neighbours.

    .. math:: \sum_{j \ne i} p_{j|i} \log \frac{p_{j|i}}{q_{j|i}}, \quad
        p_{j|i} = \frac{K(x_i, x_j)}{\sum_{k \ne i} K(x_i, x_k)}, \quad K(a, b) = \frac{1}{2} (\cos(a, b) + 1)

    p of the teacher, q of the student. The kernel is at least 1e-7, so that opposite vectors give a finite value.

    Args:
        student: ``[examples, width]``.
        teacher: ``[examples, width]``; the widths may differ.

    Returns:
        ``[examples]``, in nats, float32 (float64 for float64 input); zeros for fewer than three examples.

    References:
        Passalis & Tefas (2018), arXiv:1803.10837, with the cosine kernel. The authors' code counts an example as its
        own neighbour and takes the mean over all n² entries.
    """
    student, teacher = precise_pair(student, teacher)
    other = _others(student)
    ours, theirs = _log_neighbours(student, other), _log_neighbours(teacher, other)
    return (theirs.exp() * (theirs - ours)).masked_fill(~other, 0.0).sum(-1)


def info_nce(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    r"""Cross-entropy of finding an example's teacher representation by the student's, and the other way round.

    .. math:: -\frac{1}{2} \log \frac{\exp(c_{ii} / \tau)}{\sum_j \exp(c_{ij} / \tau)}
        -\frac{1}{2} \log \frac{\exp(c_{ii} / \tau)}{\sum_j \exp(c_{ji} / \tau)}, \quad c_{ij} = \cos(s_i, t_j)

    Args:
        student: ``[examples, width]``.
        teacher: ``[examples, width]``.
        temperature: :math:`\tau`, above 0.

    Returns:
        ``[examples]``, in nats, float32 (float64 for float64 input); above 0 for two or more examples, even where
        student and teacher agree.

    References:
        van den Oord et al. (2018), arXiv:1807.03748, section 2.3 (InfoNCE), in both directions as in the authors' code
        of Tian et al. (2020), arXiv:1910.10699.
    """
    student, teacher = precise_pair(student, teacher)
    scores = unit(student) @ unit(teacher).T / temperature
    return -(torch.log_softmax(scores, dim=1) + torch.log_softmax(scores, dim=0)).diagonal() / 2


def margin_mse(student: Tensor, teacher: Tensor, *, group: Tensor | None = None) -> Tensor:
    r"""Squared difference between the margins of two scores, the mean over an example's partners.

    .. math:: \frac{1}{|P_i|} \sum_{j \in P_i} ((s_i - s_j) - (t_i - t_j))^2

    Args:
        student: Scores, ``[examples]``.
        teacher: Scores, ``[examples]``.
        group: ``[examples]``; partners are the other examples of the same group, or all others if None.

    Returns:
        ``[examples]``, float32 (float64 for float64 input); 0 for an example without a partner.

    References:
        Hofstätter et al. (2020), arXiv:2010.02666, where a pair is two passages of one query.
    """
    student, teacher = precise_pair(student, teacher)
    partners = _others(student)
    if group is not None:
        partners = partners & (group[:, None] == group[None])
    gaps = student - teacher
    squares = (gaps[:, None] - gaps[None]).square().masked_fill(~partners, 0.0)
    return squares.sum(-1) / partners.sum(-1).clamp(min=1)


def _log_neighbours(states: Tensor, other: Tensor) -> Tensor:
    """Logarithms of the conditional probabilities, ``[examples, examples]``; the diagonal means nothing."""
    states = unit(states)
    kernel = ((states @ states.T + 1) / 2).clamp(min=1e-7)
    total = kernel.masked_fill(~other, 0.0).sum(-1, keepdim=True)
    return kernel.log() - total.clamp(min=1e-7).log()  # an example alone has a total of 0


def _cosines(states: Tensor) -> Tensor:
    """Cosine of the angle at a vertex, ``[vertex, i, k]``."""
    offsets, distances = _offsets(states)
    apart = distances > math.sqrt(torch.finfo(states.dtype).eps) * _mean_of_pairs(distances)
    inverse = apart / torch.where(apart, distances, 1.0)
    return torch.bmm(offsets, offsets.transpose(1, 2)) * inverse[:, :, None] * inverse[:, None, :]


def _offsets(states: Tensor) -> tuple[Tensor, Tensor]:
    """``x_i - x_j`` at ``[j, i]``, and its length, whose gradient at 0 is 0."""
    offsets = states[None] - states[:, None]  # [examples, examples, width]
    squares = offsets.square().sum(-1)
    apart = squares > 0
    return offsets, torch.where(apart, squares, 1.0).sqrt().masked_fill(~apart, 0.0)


def _mean_of_pairs(distances: Tensor) -> Tensor:
    """The mean over ordered pairs of two different examples; the diagonal is 0."""
    return distances.sum() / max(len(distances) * (len(distances) - 1), 1)


def _others(states: Tensor) -> Tensor:
    """``[examples, examples]`` boolean, false on the diagonal."""
    return ~torch.eye(len(states), dtype=torch.bool, device=states.device)
