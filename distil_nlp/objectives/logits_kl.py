"""Soft targets: the classic of response-based distillation."""

from __future__ import annotations

from torch import Tensor

from distil_nlp.functional.divergence import kl_divergence
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_logits import LogitsObjective


@OBJECTIVES.register("logits_kl")
class LogitsKL(LogitsObjective):
    r"""Forward KL divergence between the softened predictions of teacher and student.

    .. math:: \frac{T^2}{n} \sum_i \sum_v p_t(v|x_i) \log \frac{p_t(v|x_i)}{p_s(v|x_i)}, \quad p = softmax(z / T)

    The first objective to try whenever the teacher has the student's label set. Temperatures of 2 to 5 are usual.

    Args:
        temperature: T, above 0.
        standardize: Whether logits are standardised first (:class:`LogitsObjective`).
        confidence: Whether an item counts by how sure the teacher is of it: ``max_prob``, ``entropy`` or None.
        weight: Factor on the term in the total.

    References:
        Hinton, Vinyals, Dean (2015), arXiv:1503.02531, section 2.
    """

    name = "logits_kl"

    def __init__(
        self,
        *,
        temperature: float = 2.0,
        standardize: bool = False,
        confidence: str | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(temperature=temperature, standardize=standardize, confidence=confidence, weight=weight)

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None) -> Tensor:
        return kl_divergence(student_logits, teacher_logits, temperature=self.temperature)
