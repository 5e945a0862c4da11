"""What objectives on relations between an example's tokens have in common."""

from __future__ import annotations

import abc

from torch import Tensor

from distil_nlp.objectives.base import LayerObjective
from distil_nlp.signals import Batch, Needs, Shape, Signals, valid_tokens


class TokenRelationObjective(LayerObjective):
    """An objective on the hidden states of whole examples, whatever their widths; items are examples."""

    def bind(self, student: Shape, teacher: Shape | None) -> None:
        super().bind(student, teacher)
        self.student_needs = Needs(hidden_states=frozenset(s for s, _ in self.pairs))
        self.teacher_needs = Needs(hidden_states=frozenset(t for _, t in self.pairs))

    @abc.abstractmethod
    def compare(self, student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
        """One value per example, ``[batch]``, from two ``[batch, tokens, width]`` and ``[batch, tokens]``."""

    def values(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        valid = valid_tokens(batch)
        pairs = [(student.hidden_states[s], teacher.hidden_states[t]) for s, t in self.pairs]
        return self.combine([self.compare(ours, theirs, valid) for ours, theirs in pairs])
