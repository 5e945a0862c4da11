"""The teacher's raw outputs as targets of a regression."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from distil_nlp.functional.similarity import mean_squared_error
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_logits import CLASSES, LogitsObjective
from distil_nlp.signals import MULTI_LABEL, REGRESSION


@OBJECTIVES.register("logits_mse")
class LogitsMSE(LogitsObjective):
    r"""Mean squared error between the raw outputs of student and teacher.

    .. math:: \frac{1}{n} \sum_i \frac{1}{C} \sum_v (z_s(v|x_i) - z_t(v|x_i))^2

    The objective for regression, where it follows the teacher's value. For a few classes it is what ``logits_kl`` comes
    to at high temperatures (twice that, and the mean of the logits is matched, too). Not for a large vocabulary: there
    nearly all of it is spent on words that are never said.

    There is no temperature: with the factor T² it would cancel.

    Args:
        standardize: Whether logits are standardised first (:class:`LogitsObjective`); for three classes or more.
        weight: Factor on the term in the total.

    References:
        Ba, Caruana (2014), arXiv:1312.6184, section 2; Kim et al. (2021), arXiv:2105.08919. A mean over classes, where
        those sum (and the former halve); for multi-label classification the mean over labels of each label's logit.
    """

    name = "logits_mse"
    kinds: ClassVar[frozenset[str]] = CLASSES | {MULTI_LABEL, REGRESSION}

    def __init__(self, *, standardize: bool = False, weight: float = 1.0) -> None:
        super().__init__(standardize=standardize, weight=weight)

    @property
    def whole_logits(self) -> bool:
        return True

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None) -> Tensor:
        return mean_squared_error(student_logits, teacher_logits)

    def _label_values(self, ours: Tensor, theirs: Tensor, target: Tensor | None) -> Tensor:
        return self.compare(ours, theirs, target)

    def extra_repr(self) -> str:
        return f"weight={self.weight}, standardize={self.standardize}"
