"""What objectives on vectors of hidden states, one against one, have in common."""

from __future__ import annotations

import abc

from torch import Tensor

from distil_nlp.mapping import MappingSpec
from distil_nlp.objectives.base import LayerObjective
from distil_nlp.projection import Projection, ProjectionSettings, ProjectionSpec
from distil_nlp.signals import Batch, Needs, Shape, Signals, valid_tokens


class FeatureObjective(LayerObjective):
    """An objective that brings vectors of mapped layers to one width and compares them one by one.

    Args:
        mapping: Which student block follows which teacher block.
        projection: ``"auto"``, ``"linear"``, ``"mlp"``, ``"orthogonal"`` or ``"none"``, or a mapping with ``kind``,
            ``shared`` and ``side`` (:class:`~distil_nlp.projection.ProjectionSettings`).
        weight: Factor on the term in the total.
    """

    def __init__(
        self, *, mapping: MappingSpec = "uniform", projection: ProjectionSpec = "auto", weight: float = 1.0
    ) -> None:
        super().__init__(mapping=mapping, weight=weight)
        self.projection_settings = ProjectionSettings.read(projection)
        self.projection: Projection | None = None

    def bind(self, student: Shape, teacher: Shape | None) -> None:
        super().bind(student, teacher)
        self.student_needs = Needs(hidden_states=frozenset(s for s, _ in self.pairs))
        self.teacher_needs = Needs(hidden_states=frozenset(t for _, t in self.pairs))
        if self.projection is None and teacher is not None:
            self.projection = Projection(
                self.projection_settings,
                student_width=student.width,
                teacher_width=teacher.width,
                count=len(self.pairs),
            )

    @abc.abstractmethod
    def pick(self, hidden_states: Tensor, valid: Tensor) -> Tensor:
        """The vectors that are compared: ``[batch, tokens, width]`` and ``[batch, tokens]`` to ``[items, width]``."""

    @abc.abstractmethod
    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """One value per item, from two ``[items, width]``."""

    def values(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        valid = valid_tokens(batch)
        per_pair = []
        for number, (s, t) in enumerate(self.pairs):
            pair = self.pick(student.hidden_states[s], valid), self.pick(teacher.hidden_states[t], valid)
            if self.projection is not None:
                pair = self.projection.match(*pair, number)
            per_pair.append(self.compare(*pair))
        return self.combine(per_pair)
