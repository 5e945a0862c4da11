"""Soft targets by the distance of probabilities."""

from __future__ import annotations

from torch import Tensor

from distil_nlp.functional.divergence import total_variation
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_logits import LogitsObjective


@OBJECTIVES.register("logits_tvd")
class LogitsTVD(LogitsObjective):
    r"""Total variation distance between the softened predictions of student and teacher.

    .. math:: \frac{T^2}{2n} \sum_i \sum_v | p_t(v|x_i) - p_s(v|x_i) |, \quad p = softmax(z / T)

    Symmetric and at most 1 (T²), so that a few wrong or overconfident predictions of the teacher weigh little. Its
    gradient does not shrink as the student comes near, and fades where either side is certain of a wrong class: start
    from a student that is already close, or add ``logits_kl``.

    Args:
        temperature: T, above 0. The factor is T², as for the divergences, although the gradient of this distance
            then grows with T.
        standardize: Whether logits are standardised first (:class:`LogitsObjective`).
        confidence: Whether an item counts by how sure the teacher is of it: ``max_prob``, ``entropy`` or None.
        weight: Factor on the term in the total.

    References:
        Wen et al. (2023), arXiv:2307.15190, the variant on total variation distance, word by word, on the data's own
        sequences; theirs is half on sequences that the student generates. Temperature and T² are as in their code.
    """

    name = "logits_tvd"

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None) -> Tensor:
        return total_variation(student_logits, teacher_logits, temperature=self.temperature)
