"""What objectives on the predictions of two heads have in common."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from torch import Tensor

from distil_nlp.errors import ModelError, RecipeError, near_match
from distil_nlp.functional.attention import valid_indices
from distil_nlp.functional.confidence import CONFIDENCES, confidence
from distil_nlp.functional.divergence import shared_vocabulary, standardize
from distil_nlp.objectives.base import Objective
from distil_nlp.signals import (
    IGNORED,
    MULTI_LABEL,
    REGRESSION,
    Batch,
    Needs,
    Shape,
    Signals,
    at_items,
    item_labels,
    valid_items,
    valid_tokens,
)

CLASSES = frozenset({"example", "token", "next_token", "span"})


class LogitsObjective(Objective):
    """An objective that compares predictions, item by item.

    Items are examples (logits ``[batch, labels]``), the tokens that carry a label (``[batch, tokens, labels]``, shifted
    by one for causal language models), or both ends of a span (their mean, each a distribution over the tokens that
    are not padding, those of the question among them). Padding and ``-100`` do not count. For multi-label
    classification every label is a distribution over yes and no, with logits ``[z, 0]``, and an item's value is the
    mean over labels.

    Args:
        temperature: T, above 0; logits are divided by it.
        standardize: Whether each item's logits are first brought to mean 0 and standard deviation 1, so that the
            student need not copy their size (Sun et al. 2024, arXiv:2403.01427); for three classes or more.
        confidence: Whether each item's value is multiplied by how sure the teacher is of it, 0 to 1:
            ``"max_prob"``, the probability of its first choice, or ``"entropy"``, one minus the entropy over its
            largest possible value. The sum is still divided by the number of items.
        weight: Factor on the term in the total.
    """

    kinds: ClassVar[frozenset[str]] = CLASSES | {MULTI_LABEL}
    instead: ClassVar[str] = "logits_mse"  # for problems that this objective has no meaning for

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        standardize: bool = False,
        confidence: str | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight=weight)
        if temperature <= 0:
            raise RecipeError(f"{self.name}.temperature is {temperature}.", "It must be above 0.", "2 to 5 is usual.")
        if confidence is not None and confidence not in CONFIDENCES:
            raise RecipeError(f"{self.name}.confidence is '{confidence}'.", near_match(f"{confidence}", CONFIDENCES))
        self.confidence = confidence
        self.temperature, self.standardize = temperature, standardize
        self.student_needs = self.teacher_needs = Needs(logits=True)
        self._item: str | None = None
        self._problem: str | None = None

    def bind(self, student: Shape, teacher: Shape | None) -> None:
        if teacher is None or student.item is None or student.item != teacher.item:
            kinds = [(shape and shape.item) or "nothing (it has no head)" for shape in (student, teacher)]
            raise ModelError(
                f"{self.name} compares the predictions of two heads of one kind.",
                f"The student predicts per {kinds[0]}, the teacher per {kinds[1]}.",
                "Give both the same kind of head, or distil features (hidden_states, attentions).",
            )
        if student.problem != teacher.problem:
            raise ModelError(
                f"{self.name} compares the predictions of two heads of one kind.",
                f"The student's problem type is {student.problem}, the teacher's {teacher.problem}.",
                "Give both the same config.problem_type.",
            )
        self._item, self._problem = student.item, student.problem
        kind = self._problem or self._item
        if kind not in self.kinds:
            instead = "logits_mse" if kind == REGRESSION else self.instead
            raise ModelError(
                f"{self.name} has no meaning for the predictions of this task.",
                f"They are of the kind '{kind}'; it is defined for {', '.join(sorted(self.kinds))}.",
                f"Use {instead} instead, or distil features (hidden_states, attentions).",
            )
        if self._item in ("example", "span") and student.num_outputs != teacher.num_outputs:
            raise ModelError(
                f"{self.name} compares predictions label by label.",
                f"The student has {student.num_outputs} labels, the teacher {teacher.num_outputs}.",
                "Give both the same labels, in the same order.",
            )
        if self._item in ("token", "next_token"):
            shared_vocabulary(torch.empty(0, student.num_outputs), torch.empty(0, teacher.num_outputs))
        if self.confidence and self._problem == REGRESSION:
            raise ModelError(
                f"{self.name}.confidence is how sure the teacher is of a class.",
                "The task is a regression, which has none.",
                "Leave it out.",
            )
        if self.standardize and (self._problem or (self._item != "span" and student.num_outputs < 3)):
            raise ModelError(
                f"{self.name}.standardize brings an item's logits to mean 0 and standard deviation 1.",
                "Of a number there is nothing left then, and of a pair only which of the two is larger.",
                "Leave it out, unless the task has three classes or more.",
            )

    @abc.abstractmethod
    def compare(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None) -> Tensor:
        """One value per item.

        Args:
            student_logits: ``[items, classes]``, raw (or standardised), not yet divided by the temperature.
            teacher_logits: ``[items, classes]``.
            target: ``[items]`` class of each item's label, if the batch has labels.

        Returns:
            ``[items]``.
        """

    def count(self, batch: Batch) -> Tensor:
        return valid_items(batch, self._item).sum()

    def values(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        ours, theirs = self._logits(student), self._logits(teacher)
        target = item_labels(batch, self._item)
        if self._item == "example" and self._problem is None and target is not None and target.is_floating_point():
            raise ModelError(
                f"{self.name} compares one distribution over all classes of each example.",
                "The labels are numbers, not classes: transformers takes that for several labels an example.",
                "Set config.problem_type of both models, to 'multi_label_classification', or give whole numbers.",
            )
        if self._item == "span":
            return self._span_values(ours, theirs, batch, target)
        ours, theirs = at_items(ours, batch, self._item), at_items(theirs, batch, self._item)
        if self._problem == MULTI_LABEL:
            return self._label_values(ours, theirs, target)
        return self.item_values(ours, theirs, target)

    @property
    def whole_logits(self) -> bool:
        return self.standardize

    @property
    def by_item(self) -> bool:
        return not self.relational and self._item in ("token", "next_token")

    def item_values(self, student_logits: Tensor, teacher_logits: Tensor | None, target: Tensor | None) -> Tensor:
        if teacher_logits is None:
            raise ModelError(f"{self.name} needs the teacher's logits.", "It gave none.", "Give it a head.")
        return self._compare(*shared_vocabulary(student_logits, teacher_logits), target)

    def _label_values(self, ours: Tensor, theirs: Tensor, target: Tensor | None) -> Tensor:
        if target is not None:  # class 0 is yes
            target = torch.where(target.isnan(), IGNORED, (target < 0.5).long()).flatten()
        student, teacher = (torch.stack([z, torch.zeros_like(z)], dim=-1).flatten(0, 1) for z in (ours, theirs))
        return self._compare(student, teacher, target).view(ours.shape).mean(-1)

    def _span_values(self, ours: Tensor, theirs: Tensor, batch: Batch, target: Tensor | None) -> Tensor:
        values, valid = [], valid_tokens(batch)
        for row, tokens in enumerate(valid_indices(valid)):
            student = ours[row][:, tokens]
            if not student.shape[1]:  # padding alone
                values.append(ours[row].sum() * 0.0)
                continue
            ends = None if target is None else _among(target[row], valid[row])
            values.append(self._compare(student, theirs[row][:, tokens], ends).mean())
        return torch.stack(values)  # [batch]

    def _compare(self, ours: Tensor, theirs: Tensor, target: Tensor | None) -> Tensor:
        trust = confidence(theirs, self.confidence) if self.confidence else None
        if self.standardize:
            ours, theirs = standardize(ours), standardize(theirs)
        values = self.compare(ours, theirs, target)
        return values if trust is None else trust * values

    def _logits(self, signals: Signals) -> Tensor:
        if signals.logits is None:
            raise ModelError(f"{self.name} needs logits.", "The model gave none.", "Give both models a head.")
        return signals.logits

    def extra_repr(self) -> str:
        return f"weight={self.weight}, temperature={self.temperature}"


def _among(positions: Tensor, tokens: Tensor) -> Tensor:
    """Positions in a row as positions among its valid tokens; one that is not valid becomes the first.

    Without a label (``-100``) they stay as they are.
    """
    places = tokens.cumsum(0) - 1
    inside = positions.clamp(0, len(tokens) - 1)
    return torch.where(positions <= IGNORED, positions, torch.where(tokens[inside], places[inside], 0))
