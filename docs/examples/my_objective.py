"""Two objectives of one's own; tests/build/test_outside_objectives.py trains with the first and checks both.

In a recipe beside this file: ``objectives: {my_objective:HiddenL1: {mapping: last, weight: 0.1}}``.
"""

from torch import Tensor

from distil_nlp.objectives import LayerObjective, LogitsObjective
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


class Hellinger(LogitsObjective):
    """Squared Hellinger distance between the softened predictions; the base class picks the items that count."""

    name = "hellinger"

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None) -> Tensor:
        ours, theirs = (
            (logits.float() / self.temperature).log_softmax(-1).div(2).exp()  # roots of probabilities
            for logits in (student_logits, teacher_logits)
        )
        return (ours - theirs).square().sum(-1) / 2  # [items]
