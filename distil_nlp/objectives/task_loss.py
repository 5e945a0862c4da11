"""The hard-label loss: the student's own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distil_nlp.errors import ModelError, RecipeError
from distil_nlp.functional.precision import precise
from distil_nlp.objectives.base import OBJECTIVES, Objective
from distil_nlp.signals import IGNORED, MULTI_LABEL, Batch, Needs, Shape, Signals, at_items, item_labels, labelled_items


@OBJECTIVES.register("task_loss")
class TaskLoss(Objective):
    r"""The model's own loss on the labels, cross-entropy for most heads.

    .. math:: \frac{1}{n} \sum_i \ell(z_i, y_i)

    transformers returns the mean over a batch's items, which is wrong under gradient accumulation when micro-batches
    hold different numbers of them. It is turned back into a sum here and divided by the count of the whole step.
    One deviation is the models' own: the span loss of extractive question answering has padding in its softmax.

    Label smoothing, as ``TrainingArguments.label_smoothing_factor`` asks for it, is for classes only: the target is
    mixed with the uniform distribution (Szegedy et al. 2016, arXiv:1512.00567, section 7).

    Items without a label count for other objectives only, so that text without labels can be mixed in: a class that
    is ``-100``, a token's class of ``-101``, a number that is NaN, a span of which an end is ``-100`` or beyond the
    batch's last token. Where the model's own loss does not pass over them (spans, numbers, any number of labels), it is
    computed here as transformers does.

    Use it when there are labels; alone it is plain fine-tuning.

    Args:
        label_smoothing: Share of the uniform distribution in the target, 0 to 1.
        weight: Factor on the term in the total.
    """

    name = "task_loss"
    uses_teacher = False

    def __init__(self, *, label_smoothing: float = 0.0, weight: float = 1.0) -> None:
        super().__init__(weight=weight)
        if not 0 <= label_smoothing <= 1:
            raise RecipeError(
                f"task_loss.label_smoothing is {label_smoothing}.", "It is a share, from 0 to 1.", "0.1 is usual."
            )
        self.label_smoothing = label_smoothing
        self.label_smoothing_factor = 0.0  # of a trainer's arguments
        self.student_needs = Needs(loss=True)
        self._item: str | None = None
        self._problem: str | None = None

    def bind(self, student: Shape, teacher: Shape | None) -> None:
        if student.item is None:
            raise ModelError(
                "task_loss is the loss of the student's head.",
                "The student has no head.",
                "Leave task_loss out, or use a student with a head (AutoModelFor...).",
            )
        self._item, self._problem = student.item, student.problem
        self.student_needs = Needs(loss=True)
        if not self._smoothing:
            return
        if student.problem or student.item == "span":
            raise ModelError(
                "Label smoothing mixes a class with all the others.",
                f"The student's predictions are of the kind '{student.problem or student.item}'.",
                "Leave label smoothing at 0.",
            )
        self.student_needs = Needs(logits=True)  # the model's own loss does not smooth

    @property
    def _smoothing(self) -> float:
        return self.label_smoothing or self.label_smoothing_factor

    @property
    def by_item(self) -> bool:
        return self._item in ("token", "next_token")

    def item_values(self, student_logits: Tensor, teacher_logits: Tensor | None, target: Tensor | None) -> Tensor:
        if target is None:
            raise self._without_labels("input_ids")
        logits = precise(student_logits)
        target = target.clamp(min=IGNORED)  # passed over, with or without a label
        return F.cross_entropy(logits, target, reduction="none", label_smoothing=self._smoothing)

    def count(self, batch: Batch) -> Tensor:
        """Items with a label."""
        return labelled_items(batch, self._item).sum()

    def values(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        labels = item_labels(batch, self._item)
        if self._smoothing and student.logits is not None:
            return self.item_values(at_items(student.logits, batch, self._item), None, labels)
        if student.loss is None or labels is None:
            raise self._without_labels(", ".join(sorted(batch)))
        labelled = labelled_items(batch, self._item)
        count = labelled.sum()
        if count == 0 and student.logits is not None:  # the mean of nothing is not a number
            return student.logits.sum().reshape(1) * 0.0
        loss = student.loss
        if (self._item == "span" or self._problem) and student.logits is not None and count < len(labelled):
            loss = self._mean_loss(student.logits[labelled], labels[labelled])
        return (precise(loss) * count).reshape(1)

    def _mean_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The model's own loss on some of the examples."""
        if self._item == "span":
            ends = labels.clamp(min=0)  # [examples, 2]
            losses = [F.cross_entropy(logits[:, end], ends[:, end]) for end in (0, 1)]
            return torch.stack(losses).mean()
        if self._problem == MULTI_LABEL:
            return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return F.mse_loss(logits.flatten(), labels.flatten().to(logits.dtype))

    @staticmethod
    def _without_labels(found: str) -> ModelError:
        return ModelError(
            "task_loss needs labels.",
            f"The batch has {found}.",
            "Add them to the rows, as a column `labels`, or leave task_loss out.",
        )
