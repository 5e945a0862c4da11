"""Divergences between two categorical distributions given as logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distil_nlp.errors import ModelError


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
    student = F.log_softmax(_at_least_float32(student_logits) / temperature, dim=-1)
    teacher = F.log_softmax(_at_least_float32(teacher_logits) / temperature, dim=-1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1) * temperature**2


def standardize(logits: Tensor) -> Tensor:
    r"""Brings each item's logits to mean 0 and standard deviation 1.

    .. math:: (z - \bar z) / \sigma(z)

    Args:
        logits: ``[..., classes]``.

    Returns:
        The same shape, float32 (float64 for float64); zeros where all of an item's logits are equal.

    References:
        Sun et al. (2024), arXiv:2403.01427, eq. 12 (the population's standard deviation, as in their code).
    """
    logits = _at_least_float32(logits)
    centred = logits - logits.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True).sqrt() + 1e-7)


def shared_vocabulary(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Cuts padding rows off the larger vocabulary, so that they leave the normaliser on both sides.

    Args:
        student_logits: ``[..., student_vocab]``.
        teacher_logits: ``[..., teacher_vocab]``.

    Raises:
        ModelError: if the sizes differ by more than padding can explain (2 %).
    """
    sizes = student_logits.shape[-1], teacher_logits.shape[-1]
    if sizes[0] == sizes[1]:
        return student_logits, teacher_logits
    if max(sizes) - min(sizes) > max(sizes) // 50:
        raise ModelError(
            "The logits of student and teacher are compared word by word.",
            f"The student's vocabulary has {sizes[0]:,} rows, the teacher's {sizes[1]:,}: more than padding explains.",
            "Give the student the teacher's tokenizer and vocabulary, or distil features instead of logits.",
        )
    return student_logits[..., : min(sizes)], teacher_logits[..., : min(sizes)]


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
