"""Soft targets: the classic of response-based distillation."""

from __future__ import annotations

import torch
from torch import Tensor

from distil_nlp.errors import ModelError, RecipeError
from distil_nlp.functional.divergence import kl_divergence, shared_vocabulary
from distil_nlp.objectives.base import OBJECTIVES, Objective
from distil_nlp.signals import Batch, Needs, Shape, Signals, valid_items


@OBJECTIVES.register("logits_kl")
class LogitsKL(Objective):
    r"""Forward KL divergence between the softened predictions of teacher and student.

    .. math:: \frac{T^2}{n} \sum_i \sum_v p_t(v|x_i) \log \frac{p_t(v|x_i)}{p_s(v|x_i)}, \quad p = softmax(z / T)

    Items are examples (``[batch, labels]``), the tokens that carry a label (``[batch, tokens, labels]``, shifted by
    one for causal language models), or both ends of a span (their mean). Padding and ``-100`` do not count.

    The first objective to try whenever the teacher has the student's label set. Temperatures of 2 to 5 are usual.

    Args:
        temperature: T, above 0.
        weight: Factor on the term in the total.

    References:
        Hinton, Vinyals, Dean (2015), arXiv:1503.02531, section 2.
    """

    name = "logits_kl"

    def __init__(self, *, temperature: float = 2.0, weight: float = 1.0) -> None:
        super().__init__(weight=weight)
        if temperature <= 0:
            raise RecipeError(f"{self.name}.temperature is {temperature}.", "It must be above 0.", "2 to 5 is usual.")
        self.temperature = temperature
        self.student_needs = self.teacher_needs = Needs(logits=True)
        self._item: str | None = None

    def bind(self, student: Shape, teacher: Shape | None) -> None:
        if teacher is None or student.item is None or student.item != teacher.item:
            raise ModelError(
                f"{self.name} compares the predictions of two heads of one kind.",
                f"The student predicts per {student.item}, the teacher per {teacher and teacher.item}.",
                "Give both the same kind of head, or distil features (hidden_states, attentions).",
            )
        if student.problem or teacher.problem:
            raise ModelError(
                f"{self.name} compares distributions over classes of which one is right.",
                f"The problem is {student.problem or teacher.problem}.",
                "Distil features (hidden_states, attentions) instead.",
            )
        if student.item in ("example", "span") and student.num_outputs != teacher.num_outputs:
            raise ModelError(
                f"{self.name} compares predictions label by label.",
                f"The student has {student.num_outputs} labels, the teacher {teacher.num_outputs}.",
                "Give both the same labels, in the same order.",
            )
        if student.item in ("token", "next_token"):
            shared_vocabulary(torch.empty(0, student.num_outputs), torch.empty(0, teacher.num_outputs))
        self._item = student.item

    def count(self, batch: Batch) -> Tensor:
        return valid_items(batch, self._item).sum()

    def values(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        valid = valid_items(batch, self._item)
        if self._item == "span":
            return self._span_values(student, teacher)
        pair = shared_vocabulary(_predictions(student, self._item), _predictions(teacher, self._item))
        return kl_divergence(pair[0][valid], pair[1][valid], temperature=self.temperature)  # [items]

    def _span_values(self, student: Signals, teacher: Signals) -> Tensor:
        """Start and end are distributions over the tokens that are not padding."""
        padding = ~_present(student.attention_mask).unsqueeze(1)  # [batch, 1, tokens]
        pair = [_present(side.logits).float().masked_fill(padding, -1e9) for side in (student, teacher)]
        return kl_divergence(pair[0], pair[1], temperature=self.temperature).mean(-1)  # [batch]

    def extra_repr(self) -> str:
        return f"weight={self.weight}, temperature={self.temperature}"


def _predictions(signals: Signals, item: str | None) -> Tensor:
    logits = _present(signals.logits)
    return logits[:, :-1] if item == "next_token" else logits


def _present(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise ModelError("logits_kl needs logits.", "The model gave none.", "Give both models a head.")
    return tensor
