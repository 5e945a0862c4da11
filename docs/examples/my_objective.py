"""Two objectives of one's own; tests/build/test_outside_objectives.py trains with the first and checks both.

In a recipe beside this file: ``objectives: {my_objective:HiddenL1: {mapping: last, weight: 0.1}}``.
"""

from torch import Tensor

from distil_nlp.objectives import LogitsObjective, TokenObjective


class HiddenL1(TokenObjective):
    """Mean absolute difference between the hidden states of mapped layers; the base class picks the tokens."""

    name = "hidden_l1"  # what the term is logged under

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).abs().mean(-1)  # [tokens, width] -> [tokens]


class Hellinger(LogitsObjective):
    """Squared Hellinger distance between the softened predictions; the base class picks the items that count."""

    name = "hellinger"

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None) -> Tensor:
        ours, theirs = (
            (logits.float() / self.temperature).log_softmax(-1).div(2).exp()  # roots of probabilities
            for logits in (student_logits, teacher_logits)
        )
        return (ours - theirs).square().sum(-1) / 2  # [items]
