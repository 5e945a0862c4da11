"""What objectives on vectors of hidden states, one against one, have in common."""

from __future__ import annotations

import abc
from collections.abc import Callable

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
        if teacher is not None:
            self.projection = Projection.between(
                student, teacher, self.projection_settings, count=len(self.pairs), known=self.projection
            )

    @abc.abstractmethod
    def pick(self, hidden_states: Tensor, valid: Tensor) -> Tensor:
        """The vectors that are compared: ``[batch, tokens, width]`` and ``[batch, tokens]`` to ``[items, width]``."""

    def picker(self, valid: Tensor) -> Callable[[Tensor], Tensor]:
        """:meth:`pick` for all hidden states of one batch."""
        return lambda hidden_states: self.pick(hidden_states, valid)

    @abc.abstractmethod
    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """One value per item, from two ``[items, width]``."""

    def values(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        pick = self.picker(valid_tokens(batch))
        per_pair = []
        for number, (s, t) in enumerate(self.pairs):
            pair = pick(student.hidden_states[s]), pick(teacher.hidden_states[t])
            if self.projection is not None:
                pair = self.projection.match(*pair, number)
            per_pair.append(self.compare(*pair))
        return self.combine(per_pair)


class TokenObjective(FeatureObjective):
    """One whose vectors are those of the tokens that are not padding; :meth:`compare` is all that is left to write."""

    def count(self, batch: Batch) -> Tensor:
        return valid_tokens(batch).sum()

    def pick(self, hidden_states: Tensor, valid: Tensor) -> Tensor:
        return self.picker(valid)(hidden_states)

    def picker(self, valid: Tensor) -> Callable[[Tensor], Tensor]:
        places = valid.flatten().nonzero().squeeze(1)  # waits for the device, so once a batch
        if len(places) == valid.numel():
            return lambda hidden_states: hidden_states.flatten(0, 1)
        return lambda hidden_states: hidden_states.flatten(0, 1).index_select(0, places)  # [items, width]
