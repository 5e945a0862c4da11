"""An objective of one's own; tests/test_outside_objectives.py trains with it.

In a recipe beside this file: ``objectives: {my_objective:HiddenL1: {mapping: last, weight: 0.1}}``.
"""

from torch import Tensor

from distil_nlp.objectives import LayerObjective
from distil_nlp.signals import Batch, Needs, Shape, Signals, valid_tokens


class HiddenL1(LayerObjective):
    """Mean absolute difference between the hidden states of mapped layers, over the tokens that are not padding."""

    name = "hidden_l1"  # what the term is logged under

    def bind(self, student: Shape, teacher: Shape | None) -> None:
        super().bind(student, teacher)  # resolves the layer mapping to self.pairs
        self.student_needs = Needs(hidden_states=frozenset(s for s, _ in self.pairs))
        self.teacher_needs = Needs(hidden_states=frozenset(t for _, t in self.pairs))

    def count(self, batch: Batch) -> Tensor:
        return valid_tokens(batch).sum()

    def values(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        valid = valid_tokens(batch)
        return self.combine(
            [
                (student.hidden_states[s][valid] - teacher.hidden_states[t][valid]).abs().mean(-1)  # [tokens]
                for s, t in self.pairs
            ]
        )
