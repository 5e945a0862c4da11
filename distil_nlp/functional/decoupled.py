"""KL divergence in two parts: the target class against the others, and the others among themselves."""

from __future__ import annotations

import math

from torch import Tensor

from distil_nlp.functional.divergence import coarse_log_probabilities, log_probabilities, relative_entropy


def decoupled_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    r"""Decoupled knowledge distillation: TCKD and NCKD with weights of their own.

    .. math:: T^2 [\alpha \, KL(b_t \| b_s) + \beta \, KL(\hat p_t \| \hat p_s)]

    with :math:`b = (p_y, 1 - p_y)` for the target class y, and :math:`\hat p = p / (1 - p_y)` over the other classes.
    With :math:`\alpha = 1` and :math:`\beta = 1 - p_{t,y}`, item by item, it is the KL divergence.

    Args:
        student_logits: ``[..., classes]``.
        teacher_logits: ``[..., classes]``; besides the target, at least one class is not -inf.
        target: ``[...]`` classes.
        alpha: Weight of the target class against the others (TCKD).
        beta: Weight of the others among themselves (NCKD).
        temperature: T, which softens both parts.

    Returns:
        ``[...]``, in nats, float32 (float64 for float64 input); zeros for a single class.

    References:
        Zhao et al. (2022), arXiv:2203.08679, section 3, and the authors' ``dkd_loss``, which leaves the target out of
        the second part by subtracting 1000 from its logit; here it is left out.
    """
    if student_logits.shape[-1] < 2:
        return log_probabilities(student_logits, temperature).sum(-1)  # log 1, with a gradient of 0
    chosen = target.unsqueeze(-1)  # [..., 1]
    binary, others = [], []
    for logits in (student_logits, teacher_logits):
        binary.append(coarse_log_probabilities(logits, chosen, temperature))  # [..., 2]
        others.append(log_probabilities(logits.scatter(-1, chosen, -math.inf), temperature))
    against, among = (relative_entropy(teacher, student) for student, teacher in (binary, others))
    return (alpha * against + beta * among) * temperature**2
