"""The hard-label loss: the student's own."""

from __future__ import annotations

from torch import Tensor

from distil_nlp.errors import ModelError
from distil_nlp.objectives.base import OBJECTIVES, Objective
from distil_nlp.signals import Batch, Needs, Shape, Signals, valid_items


@OBJECTIVES.register("task_loss")
class TaskLoss(Objective):
    r"""The model's own loss on the labels, cross-entropy for most heads.

    .. math:: \frac{1}{n} \sum_i \ell(z_i, y_i)

    transformers returns the mean over a batch's items, which is wrong under gradient accumulation when micro-batches
    hold different numbers of them. It is turned back into a sum here and divided by the count of the whole step.
    One deviation is the models' own: the span loss of extractive question answering has padding in its softmax.

    Use it when there are labels; alone it is plain fine-tuning.

    Args:
        weight: Factor on the term in the total.
    """

    name = "task_loss"
    uses_teacher = False

    def __init__(self, *, weight: float = 1.0) -> None:
        super().__init__(weight=weight)
        self.student_needs = Needs(loss=True)
        self._item: str | None = None

    def bind(self, student: Shape, teacher: Shape | None) -> None:
        if student.item is None:
            raise ModelError(
                "task_loss is the loss of the student's head.",
                "The student has no head.",
                "Leave task_loss out, or use a student with a head (AutoModelFor...).",
            )
        self._item = student.item

    def count(self, batch: Batch) -> Tensor:
        return valid_items(batch, self._item).sum()

    def values(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        if student.loss is None:
            raise ModelError(
                "task_loss needs labels.",
                f"The batch has {', '.join(sorted(batch))}.",
                "Add labels to the rows, or leave task_loss out.",
            )
        count = self.count(batch)
        if count == 0 and student.logits is not None:  # the mean of nothing is not a number
            return student.logits.sum().reshape(1) * 0.0
        return (student.loss.float() * count).reshape(1)
