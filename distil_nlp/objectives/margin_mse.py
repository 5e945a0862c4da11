"""Response-based distillation for ranking: margins between scores."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from distil_nlp.errors import ModelError
from distil_nlp.functional.precision import precise
from distil_nlp.functional.relation import margin_mse
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_logits import LogitsObjective
from distil_nlp.signals import REGRESSION, Batch, Shape, Signals


@OBJECTIVES.register("margin_mse")
class MarginMSE(LogitsObjective):
    r"""Squared difference between student and teacher in how far apart two examples score.

    .. math:: \frac{1}{n} \sum_i \frac{1}{|P_i|} \sum_{j \in P_i} ((s_i - s_j) - (t_i - t_j))^2

    s and t are the scores of a head with one output (regression, a cross-encoder), or :math:`z_1 - z_0` of one with two
    labels. An example's partners :math:`P_i` are the other examples of the micro-batch that have its number in the
    column ``group`` of the batch (a query's, say), or all others without such a column. An example without a partner
    counts as 0.

    Use it for rerankers, with several passages of a query side by side in a micro-batch: the student need not copy
    the size of the teacher's scores, only their differences. A trainer given rows with a column ``group`` of numbers
    makes micro-batches of whole groups; in a recipe ``task.group`` names it. Where scores themselves matter, use
    logits_mse.

    Args:
        weight: Factor on the term in the total.

    References:
        Hofstätter et al. (2020), arXiv:2010.02666, for a relevant and another passage of one query. That is a group of
        two; this takes all pairs of larger groups, whichever is the relevant one, since exchanging the two changes
        nothing.
    """

    name = "margin_mse"
    relational: ClassVar[bool] = True
    columns: ClassVar[tuple[str, ...]] = ("group",)
    kinds = frozenset({"example", REGRESSION})
    instead = "logits_kl"

    def __init__(self, *, weight: float = 1.0) -> None:
        super().__init__(weight=weight)

    def bind(self, student: Shape, teacher: Shape | None) -> None:
        super().bind(student, teacher)
        expected = 1 if self._problem == REGRESSION else 2
        if student.num_outputs != expected:
            raise ModelError(
                "margin_mse needs one score of each example: one output for regression, or two labels.",
                f"The heads have {student.num_outputs} outputs.",
                f"Use {'logits_mse' if self._problem == REGRESSION else 'logits_kl'} instead.",
            )

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None) -> Tensor:
        return margin_mse(_scores(student_logits), _scores(teacher_logits))

    def values(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        group = batch.get("group")
        if group is None:
            return super().values(student, teacher, batch)
        return margin_mse(_scores(self._logits(student)), _scores(self._logits(teacher)), group=group)

    def extra_repr(self) -> str:
        return f"weight={self.weight}"


def _scores(logits: Tensor) -> Tensor:
    """``[examples, 1 or 2] -> [examples]``."""
    logits = precise(logits)
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
