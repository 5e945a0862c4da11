"""Soft targets against a mixture of both models."""

from __future__ import annotations

from torch import Tensor

from distil_nlp.errors import RecipeError, near_match
from distil_nlp.functional.divergence import skew_kl_divergence
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_logits import LogitsObjective

DIRECTIONS = ("forward", "reverse")


@OBJECTIVES.register("logits_skew_kl")
class LogitsSkewKL(LogitsObjective):
    r"""Skew KL divergence: from one softened prediction to its mixture with the other.

    .. math:: \frac{T^2}{n} \sum_i KL(p_t \| \alpha p_t + (1 - \alpha) p_s) \quad \text{(forward)}, \qquad
        \frac{T^2}{n} \sum_i KL(p_s \| \alpha p_s + (1 - \alpha) p_t) \quad \text{(reverse)}

    with :math:`p = softmax(z / T)`. For language models: the mixture bounds the ratio of probabilities, and with it
    what tokens that one side holds impossible add to the gradient. With few classes there is little to bound, and
    ``logits_kl`` does as well.

    Args:
        alpha: Share of the first distribution in the mixture, 0 to below 1; 0 is (reverse) KL.
        direction: ``forward``, from the teacher (SKL), or ``reverse``, from the student (SRKL).
        temperature: T, above 0; it softens both predictions before they are mixed.
        standardize: Whether logits are standardised first (:class:`LogitsObjective`).
        confidence: Whether an item counts by how sure the teacher is of it: ``max_prob``, ``entropy`` or None.
        weight: Factor on the term in the total.

    References:
        Ko et al. (2024), arXiv:2402.03898; 0.1 is the default of the authors' ``skewed_forward_kl`` and
        ``skewed_reverse_kl``. The former leaves out the teacher's entropy, which has no gradient; here it is in. On
        the data's own sequences. Temperature and T² are ours.
    """

    name = "logits_skew_kl"

    def __init__(
        self,
        *,
        alpha: float = 0.1,
        direction: str = "forward",
        temperature: float = 1.0,
        standardize: bool = False,
        confidence: str | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(temperature=temperature, standardize=standardize, confidence=confidence, weight=weight)
        if not 0 <= alpha < 1:
            raise RecipeError(
                f"logits_skew_kl.alpha is {alpha}.",
                "It is a share from 0 to below 1: a distribution mixed with nothing else is always at distance 0.",
                "0.1 is usual.",
            )
        if direction not in DIRECTIONS:
            raise RecipeError(f"logits_skew_kl.direction is '{direction}'.", near_match(str(direction), DIRECTIONS))
        self.alpha, self.direction = alpha, direction

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None) -> Tensor:
        return skew_kl_divergence(
            student_logits,
            teacher_logits,
            alpha=self.alpha,
            reverse=self.direction == "reverse",
            temperature=self.temperature,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, alpha={self.alpha}, direction={self.direction}"
