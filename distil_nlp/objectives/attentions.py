"""Feature-based distillation: attention maps."""

from __future__ import annotations

import torch
from torch import Tensor

from distil_nlp.functional.attention import attention_mse
from distil_nlp.mapping import MappingSpec
from distil_nlp.objectives.base import OBJECTIVES, LayerObjective
from distil_nlp.signals import Batch, Needs, Shape, Signals, valid_tokens


@OBJECTIVES.register("attentions")
class Attentions(LayerObjective):
    r"""Mean squared error between the self-attention maps of mapped layers.

    .. math:: \frac{1}{B |P|} \sum_{(l,m) \in P} \sum_b \frac{1}{H n_b^2} \sum_{h,i,j} (A^s_{lbhij} - A^t_{mbhij})^2

    over the :math:`n_b` tokens of example b that are not padding. Maps are probabilities before dropout. Where the
    numbers of heads differ, maps are averaged over heads first.

    Both models keep their fast attention; maps are rebuilt from queries and keys of the mapped layers only. Values
    are small (a map's row sums to 1), so weights well above 1 are usual.

    Args:
        mapping: Which student block follows which teacher block.
        weight: Factor on the term in the total.

    References:
        Jiao et al. (2020), arXiv:1909.10351, eq. 7, which matches unnormalised scores; on probabilities as in
        Aguilar et al. (2020), arXiv:1910.03723, section 3.2. Mean over layers instead of their sum.
    """

    name = "attentions"

    def __init__(self, *, mapping: MappingSpec = "uniform", weight: float = 1.0) -> None:
        super().__init__(mapping=mapping, weight=weight)

    def bind(self, student: Shape, teacher: Shape | None) -> None:
        super().bind(student, teacher)
        self.student_needs = Needs(attentions=frozenset(s for s, _ in self.pairs))
        self.teacher_needs = Needs(attentions=frozenset(t for _, t in self.pairs))

    def count(self, batch: Batch) -> Tensor:
        return valid_tokens(batch).any(-1).sum()

    def values(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        valid = valid_tokens(batch)
        per_pair = [attention_mse(student.attentions[s], teacher.attentions[t], valid) for s, t in self.pairs]
        return torch.stack(per_pair).mean(0)  # [batch]
