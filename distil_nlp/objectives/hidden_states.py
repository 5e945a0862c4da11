"""Feature-based distillation: hidden states."""

from __future__ import annotations

import torch
from torch import Tensor

from distil_nlp.functional.similarity import mean_squared_error
from distil_nlp.mapping import MappingSpec
from distil_nlp.objectives.base import OBJECTIVES, LayerObjective
from distil_nlp.projection import Projection
from distil_nlp.signals import Batch, Needs, Shape, Signals, valid_tokens


@OBJECTIVES.register("hidden_states")
class HiddenStates(LayerObjective):
    r"""Mean squared error between the hidden states of mapped layers.

    .. math:: \frac{1}{n |P|} \sum_{(l,m) \in P} \sum_i \frac{1}{d} \| W_l h^s_{l,i} - h^t_{m,i} \|^2

    over the n tokens that are not padding and the pairs P of the layer mapping; d is the teacher's width.

    Use it when student and teacher have one tokenizer; it helps most with little data and students that start from
    the teacher's layers.

    Args:
        mapping: Which student block follows which teacher block.
        projection: ``"auto"``, ``"linear"`` or ``"none"`` (:class:`~distil_nlp.projection.Projection`).
        weight: Factor on the term in the total.

    References:
        Romero et al. (2015), arXiv:1412.6550, eq. 3; Jiao et al. (2020), arXiv:1909.10351, eq. 8. Both sum over
        layers; here it is their mean, so that a weight means the same for any depth.
    """

    name = "hidden_states"

    def __init__(self, *, mapping: MappingSpec = "uniform", projection: str = "auto", weight: float = 1.0) -> None:
        super().__init__(mapping=mapping, weight=weight)
        self.projection_kind = projection
        self.projection: Projection | None = None

    def bind(self, student: Shape, teacher: Shape | None) -> None:
        super().bind(student, teacher)
        self.student_needs = Needs(hidden_states=frozenset(s for s, _ in self.pairs))
        self.teacher_needs = Needs(hidden_states=frozenset(t for _, t in self.pairs))
        if self.projection is None and teacher is not None:
            self.projection = Projection(
                self.projection_kind,
                student_width=student.width,
                teacher_width=teacher.width,
                count=len(self.pairs),
            )

    def count(self, batch: Batch) -> Tensor:
        return valid_tokens(batch).sum()

    def values(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        valid = valid_tokens(batch)
        everywhere = bool(valid.all())
        total: list[Tensor] = []
        for number, (s, t) in enumerate(self.pairs):
            ours, theirs = student.hidden_states[s], teacher.hidden_states[t]
            if not everywhere:
                ours, theirs = ours[valid], theirs[valid]  # [items, width]
            if self.projection is not None:
                ours = self.projection(ours, number)
            total.append(mean_squared_error(ours, theirs))
        return torch.stack(total).mean(0)
