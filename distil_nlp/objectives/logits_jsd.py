"""Soft targets between forward and reverse KL."""

from __future__ import annotations

from torch import Tensor

from distil_nlp.errors import RecipeError
from distil_nlp.functional.divergence import generalized_jsd
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_logits import LogitsObjective


@OBJECTIVES.register("logits_jsd")
class LogitsJSD(LogitsObjective):
    r"""Generalised Jensen-Shannon divergence between the softened predictions of student and teacher.

    .. math:: \frac{T^2}{n} \sum_i [\beta \, KL(p_t \| m) + (1 - \beta) \, KL(p_s \| m)], \quad
        m = \beta p_t + (1 - \beta) p_s, \quad p = softmax(z / T)

    Bounded, so that single predictions far from the teacher's cannot rule a step. A small :math:`\beta` behaves as
    forward KL, a large one as reverse KL, but much smaller: near 0 the value is about :math:`\beta \, KL(p_t \| p_s)`,
    near 1 it is :math:`(1 - \beta) \, KL(p_s \| p_t)`, and calls for a weight that makes up for it. At 0 and at 1
    themselves it is KL without that factor: a jump.

    Args:
        beta: The teacher's share of the mixture: 0.5 is the Jensen-Shannon divergence, 0 forward KL, 1 reverse KL.
        temperature: T, above 0; it softens both predictions before they are mixed.
        standardize: Whether logits are standardised first (:class:`LogitsObjective`).
        confidence: Whether an item counts by how sure the teacher is of it: ``max_prob``, ``entropy`` or None.
        weight: Factor on the term in the total.

    References:
        Agarwal et al. (2024), arXiv:2306.13649, eq. 1, on the data's own sequences. The two ends are as in TRL's
        ``GKDTrainer``; the factor T² is ours (TRL divides logits by T and leaves the loss as it is).
    """

    name = "logits_jsd"

    def __init__(
        self,
        *,
        beta: float = 0.5,
        temperature: float = 1.0,
        standardize: bool = False,
        confidence: str | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(temperature=temperature, standardize=standardize, confidence=confidence, weight=weight)
        if not 0 <= beta <= 1:
            raise RecipeError(
                f"logits_jsd.beta is {beta}.",
                "It is the teacher's share of a mixture, from 0 to 1.",
                "0.5 is the Jensen-Shannon divergence.",
            )
        self.beta = beta

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None) -> Tensor:
        return generalized_jsd(student_logits, teacher_logits, beta=self.beta, temperature=self.temperature)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, beta={self.beta}"
