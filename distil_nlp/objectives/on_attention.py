"""What objectives on self-attention have in common."""

from __future__ import annotations

import abc

from torch import Tensor

from distil_nlp.errors import ModelError
from distil_nlp.objectives.base import LayerObjective
from distil_nlp.signals import Batch, Needs, SelfAttention, Shape, Signals, valid_examples, valid_tokens


class AttentionObjective(LayerObjective):
    """An objective that compares the self-attention of mapped layers; items are examples."""

    @property
    def needs_inputs(self) -> bool:
        """Whether queries, keys and values are read, and not finished maps only."""
        return True

    def bind(self, student: Shape, teacher: Shape | None) -> None:
        super().bind(student, teacher)
        for role, shape in (("student", student), ("teacher", teacher)):
            if shape is not None and not shape.num_heads:
                raise ModelError(
                    f"{self.name} compares self-attention.",
                    f"The {role} has none.",
                    "Use objectives on hidden states or logits instead.",
                )
            if self.needs_inputs and shape is not None and not shape.attention_inputs:
                raise ModelError(
                    f"{self.name} compares what goes into self-attention: queries, keys or values.",
                    f"The {role} does not use transformers.AttentionInterface, so only its finished maps can be seen.",
                    "Use the objective attentions (on: probabilities), or hidden_states, instead.",
                )
        self.student_needs = Needs(attentions=frozenset(s for s, _ in self.pairs))
        self.teacher_needs = Needs(attentions=frozenset(t for _, t in self.pairs))

    def count(self, batch: Batch) -> Tensor:
        return valid_examples(batch).sum()

    @abc.abstractmethod
    def compare(self, student: SelfAttention, teacher: SelfAttention, valid: Tensor) -> Tensor:
        """One value per example, ``[batch]``; ``valid`` is ``[batch, tokens]``. Rows of padding alone have 0."""

    def values(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        valid = valid_tokens(batch)
        return self.combine([self.compare(student.attentions[s], teacher.attentions[t], valid) for s, t in self.pairs])
