"""Predictions that are related as the teacher's are."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from distil_nlp.errors import ModelError, RecipeError
from distil_nlp.functional.correlation import relation_distance
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_logits import CLASSES, LogitsObjective
from distil_nlp.signals import Shape


@OBJECTIVES.register("dist")
class DIST(LogitsObjective):
    r"""Pearson correlation of predictions: between the classes of an item, and between the items of a class.

    .. math:: T^2 \Big[ \frac{\beta}{n} \sum_i d(p_s(\cdot|x_i), p_t(\cdot|x_i)) +
        \frac{\gamma}{C} \sum_v d(p_s(v|\cdot), p_t(v|\cdot)) \Big], \quad d = 1 - \rho, \quad p = softmax(z / T)

    For teachers much stronger than the student: it asks for the teacher's preferences, not for its probabilities.
    It wants large micro-batches, since the items of a class are those of one micro-batch and process; gradient
    accumulation does not join them. One item has no second part.

    Each item's value holds the whole second part, so that their mean is the formula; over several micro-batches the
    second part is a mean weighted by items.

    Args:
        beta: Weight of the first part (inter-class), at least 0; 0 for two classes, where it tells nothing.
        gamma: Weight of the second part (intra-class), at least 0.
        temperature: T, above 0.
        standardize: Whether logits are standardised first (:class:`LogitsObjective`).
        weight: Factor on the term in the total.

    References:
        Huang et al. (2022), arXiv:2205.10536; defaults and the factor T² are those of the authors' ``dist_kd.py``.
        Classes that the teacher gives the same probability in all items count as 0 (1, without a gradient, in that
        code), and there is no constant in the denominator.
    """

    name = "dist"
    relational: ClassVar[bool] = True
    kinds: ClassVar[frozenset[str]] = CLASSES - {"span"}  # the tokens of two examples are not the same classes
    instead: ClassVar[str] = "logits_kl"

    def __init__(
        self,
        *,
        beta: float = 1.0,
        gamma: float = 1.0,
        temperature: float = 1.0,
        standardize: bool = False,
        weight: float = 1.0,
    ) -> None:
        super().__init__(temperature=temperature, standardize=standardize, weight=weight)
        if beta < 0 or gamma < 0:
            raise RecipeError(
                f"dist.beta is {beta}, dist.gamma is {gamma}.", "A weight is not negative.", "1 and 1 are usual."
            )
        self.beta, self.gamma = beta, gamma

    def bind(self, student: Shape, teacher: Shape | None) -> None:
        super().bind(student, teacher)
        if self.beta and student.num_outputs < 3:
            raise ModelError(
                f"dist.beta is {self.beta}: the weight of the correlation between an item's classes.",
                f"Between {student.num_outputs} classes it is 1 or -1, whatever their probabilities.",
                "Set it to 0, which leaves the correlation between items, or use logits_kl.",
            )

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None) -> Tensor:
        return relation_distance(
            student_logits, teacher_logits, beta=self.beta, gamma=self.gamma, temperature=self.temperature
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, beta={self.beta}, gamma={self.gamma}"
