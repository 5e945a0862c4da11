"""Divergences between two categorical distributions given as logits.

Logarithms of probabilities are used throughout, in float32, or in float64 for float64 logits. A class whose logit is
-inf on both sides is left out. One that only the second distribution of a KL divergence rules out makes it infinite.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from distil_nlp.errors import ModelError
from distil_nlp.functional.precision import precise


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    r"""Forward Kullback-Leibler divergence of softened distributions.

    .. math:: T^2 \, KL(p_t \| p_s) = T^2 \sum_v p_t(v) [\log p_t(v) - \log p_s(v)], \quad p = softmax(z / T)

    The factor T² keeps the gradient's size independent of the temperature. Log-softmax is taken in float32, or in
    float64 for float64 logits.

    Args:
        student_logits: ``[..., vocab]``.
        teacher_logits: ``[..., vocab]``.
        temperature: T.

    Returns:
        ``[...]``, in nats.

    References:
        Hinton, Vinyals, Dean (2015), arXiv:1503.02531, section 2.
    """
    student, teacher = (log_probabilities(z, temperature) for z in (student_logits, teacher_logits))
    return relative_entropy(teacher, student) * temperature**2


def reverse_kl_divergence(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    r"""Reverse Kullback-Leibler divergence of softened distributions.

    .. math:: T^2 \, KL(p_s \| p_t) = T^2 \sum_v p_s(v) [\log p_s(v) - \log p_t(v)], \quad p = softmax(z / T)

    Args:
        student_logits: ``[..., vocab]``.
        teacher_logits: ``[..., vocab]``.
        temperature: T.

    Returns:
        ``[...]``, in nats, float32 (float64 for float64 input).

    References:
        Gu et al. (2024), arXiv:2306.08543, for whole sequences; here for each prediction.
    """
    student, teacher = (log_probabilities(z, temperature) for z in (student_logits, teacher_logits))
    return relative_entropy(student, teacher) * temperature**2


def generalized_jsd(
    student_logits: Tensor, teacher_logits: Tensor, *, beta: float = 0.5, temperature: float = 1.0
) -> Tensor:
    r"""Generalised Jensen-Shannon divergence of softened distributions.

    .. math:: T^2 [\beta \, KL(p_t \| m) + (1 - \beta) \, KL(p_s \| m)], \quad m = \beta p_t + (1 - \beta) p_s

    For :math:`\beta = 0` it is forward KL, :math:`KL(p_t \| p_s)`, and for :math:`\beta = 1` reverse KL. Those are the
    limits of the divergence over :math:`\beta`, or over :math:`1 - \beta`; of itself the limit is 0 at both ends.

    Args:
        student_logits: ``[..., vocab]``.
        teacher_logits: ``[..., vocab]``.
        beta: The teacher's share of the mixture, 0 to 1.
        temperature: T.

    Returns:
        ``[...]``, in nats, float32 (float64 for float64 input); at most :math:`T^2 \log 2` for :math:`\beta = 0.5`.

    References:
        Agarwal et al. (2024), arXiv:2306.13649, eq. 1, without T². The two ends are as in TRL's ``GKDTrainer``.
    """
    if beta in (0, 1):
        divergence = reverse_kl_divergence if beta else kl_divergence
        return divergence(student_logits, teacher_logits, temperature=temperature)
    student, teacher = (log_probabilities(z, temperature) for z in (student_logits, teacher_logits))
    mixture = _log_mixture(teacher, student, beta)
    parts = relative_entropy(teacher, mixture), relative_entropy(student, mixture)
    return (beta * parts[0] + (1 - beta) * parts[1]) * temperature**2


def skew_kl_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    alpha: float = 0.1,
    reverse: bool = False,
    temperature: float = 1.0,
) -> Tensor:
    r"""KL divergence from a distribution to its mixture with the other one.

    .. math:: T^2 \, KL(p_t \| \alpha p_t + (1 - \alpha) p_s) \quad \text{or, in reverse,} \quad
        T^2 \, KL(p_s \| \alpha p_s + (1 - \alpha) p_t)

    Args:
        student_logits: ``[..., vocab]``.
        teacher_logits: ``[..., vocab]``.
        alpha: The first distribution's share of the mixture, 0 to below 1; 0 is plain (reverse) KL.
        reverse: Whether the student's distribution comes first.
        temperature: T.

    Returns:
        ``[...]``, in nats, float32 (float64 for float64 input); at most :math:`-T^2 \log \alpha`.

    References:
        Ko et al. (2024), arXiv:2402.03898 (SKL and SRKL), without T².
    """
    student, teacher = (log_probabilities(z, temperature) for z in (student_logits, teacher_logits))
    first, second = (student, teacher) if reverse else (teacher, student)
    return relative_entropy(first, _log_mixture(first, second, alpha)) * temperature**2


def total_variation(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    r"""Total variation distance of softened distributions.

    .. math:: \frac{T^2}{2} \sum_v | p_t(v) - p_s(v) |, \quad p = softmax(z / T)

    The factor is T², as for the divergences. This distance is of the first order in the difference of logits, so that
    its gradient grows with T. Where two probabilities are equal, the gradient of their difference counts as 0.

    Args:
        student_logits: ``[..., vocab]``.
        teacher_logits: ``[..., vocab]``.
        temperature: T.

    Returns:
        ``[...]``, 0 to T², float32 (float64 for float64 input).

    References:
        Wen et al. (2023), arXiv:2307.15190, the variant on total variation distance; T² as in their code.
    """
    student, teacher = (log_probabilities(z, temperature).exp() for z in (student_logits, teacher_logits))
    return (teacher - student).abs().sum(-1) * (temperature**2 / 2)


def topk_kl_divergence(student_logits: Tensor, teacher_logits: Tensor, *, k: int, temperature: float = 1.0) -> Tensor:
    r"""Forward KL divergence between the teacher's k likeliest classes and one class for all the others.

    .. math:: T^2 \sum_{v \in K} p_t(v) \log \frac{p_t(v)}{p_s(v)} + T^2 r_t \log \frac{r_t}{r_s}, \quad
        r = 1 - \sum_{v \in K} p(v)

    Both sides are distributions over k + 1 classes, so it is never negative, and never above :func:`kl_divergence`. The
    rest r is summed as the others' logarithms, not as a difference from 1.

    Args:
        student_logits: ``[..., vocab]``.
        teacher_logits: ``[..., vocab]``.
        k: Number of classes that are kept; from ``vocab`` on it is :func:`kl_divergence`.
        temperature: T.

    Returns:
        ``[...]``, in nats, float32 (float64 for float64 input).
    """
    if k >= student_logits.shape[-1]:
        return kl_divergence(student_logits, teacher_logits, temperature=temperature)
    kept = teacher_logits.topk(k, dim=-1).indices
    student, teacher = (coarse_log_probabilities(z, kept, temperature) for z in (student_logits, teacher_logits))
    return relative_entropy(teacher, student) * temperature**2


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-softmax of ``logits / temperature``: ``[..., vocab]``, float32 (float64 for float64)."""
    return F.log_softmax(precise(logits) / temperature, dim=-1)


def coarse_log_probabilities(logits: Tensor, kept: Tensor, temperature: float = 1.0) -> Tensor:
    """Logarithms of the probabilities of some classes, and of the sum of all others.

    Args:
        logits: ``[..., vocab]``.
        kept: ``[..., k]`` classes.
        temperature: The logits are divided by it.

    Returns:
        ``[..., k + 1]``, float32 (float64 for float64); the others come last.
    """
    scaled = precise(logits) / temperature
    others = scaled.scatter(-1, kept, -math.inf).logsumexp(-1, keepdim=True)
    return F.log_softmax(torch.cat([scaled.gather(-1, kept), others], dim=-1), dim=-1)


def relative_entropy(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""KL divergence :math:`\sum_v p(v) [\log p(v) - \log q(v)]` from logarithms of probabilities.

    Args:
        log_p: ``[..., vocab]``; a class of -inf contributes nothing, to the gradient neither.
        log_q: ``[..., vocab]``.

    Returns:
        ``[...]``, in nats.
    """
    if _rules_out(log_p):
        impossible = torch.isneginf(log_p)
        log_p, log_q = log_p.masked_fill(impossible, 0.0), log_q.masked_fill(impossible, 0.0)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def standardize(logits: Tensor) -> Tensor:
    r"""Brings each item's logits to mean 0 and standard deviation 1.

    .. math:: (z - \bar z) / \sigma(z)

    Args:
        logits: ``[..., classes]``, finite.

    Returns:
        The same shape, float32 (float64 for float64); zeros where all of an item's logits are equal.

    References:
        Sun et al. (2024), arXiv:2403.01427, with the population's standard deviation. Their code takes the sample's,
        over one class less: the same as a temperature that is larger by :math:`\sqrt{C / (C - 1)}` for C classes.
    """
    logits = precise(logits)
    centred = logits - logits.mean(-1, keepdim=True)
    deviation = torch.linalg.vector_norm(centred, dim=-1, keepdim=True) / max(logits.shape[-1], 1) ** 0.5
    return centred / (torch.where(deviation > 0, deviation, 1.0) + 1e-7)


def one_vocabulary(*sizes: int) -> bool:
    """Whether sizes can be those of one vocabulary: padding explains 2 %."""
    return max(sizes) - min(sizes) <= max(sizes) // 50


def shared_vocabulary(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Cuts padding rows off the larger vocabulary, so that they leave the normaliser on both sides.

    Args:
        student_logits: ``[..., student_vocab]``.
        teacher_logits: ``[..., teacher_vocab]``.

    Raises:
        ModelError: if the sizes differ by more than padding can explain.
    """
    sizes = student_logits.shape[-1], teacher_logits.shape[-1]
    if sizes[0] == sizes[1]:
        return student_logits, teacher_logits
    if not one_vocabulary(*sizes):
        raise ModelError(
            "The logits of student and teacher are compared word by word.",
            f"The student's vocabulary has {sizes[0]:,} rows, the teacher's {sizes[1]:,}: more than padding explains.",
            "Give the student the teacher's tokenizer and vocabulary, or distil features instead of logits.",
        )
    return student_logits[..., : min(sizes)], teacher_logits[..., : min(sizes)]


def _log_mixture(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """``log(share * p + (1 - share) * q)`` from logarithms; ``share`` is at least 0 and below 1."""
    if share == 0:
        return log_q
    nowhere = None
    if _rules_out(log_p) and _rules_out(log_q):  # the gradient of logaddexp is not a number where both do
        nowhere = torch.isneginf(log_p) & torch.isneginf(log_q)
        log_p, log_q = log_p.masked_fill(nowhere, 0.0), log_q.masked_fill(nowhere, 0.0)
    mixture = torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))
    return mixture if nowhere is None else mixture.masked_fill(nowhere, -math.inf)


def _rules_out(log_p: Tensor) -> bool:
    """Whether any class has the probability 0."""
    return log_p.numel() > 0 and bool(torch.isneginf(log_p.detach().amin()))
