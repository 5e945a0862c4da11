"""What objectives on one representation of each example have in common."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from distil_nlp.errors import RecipeError, near_match
from distil_nlp.functional.pooling import POOLINGS, pool
from distil_nlp.mapping import MappingSpec
from distil_nlp.objectives.base import LayerObjective
from distil_nlp.signals import Batch, Needs, Shape, Signals, valid_examples, valid_tokens

LAST: MappingSpec = ((-1, -1),)


class ExampleObjective(LayerObjective):
    """An objective on pooled hidden states, ``[examples, width]``; items are examples.

    Where it compares an example with the others (:attr:`relational`), the others are those of the same micro-batch
    and process: gradient accumulation sums over micro-batches and does not join them.

    Args:
        mapping: Which student block follows which teacher block; the last follows the last.
        pooling: ``mean`` of the tokens that are not padding, ``cls``: the first of them, or ``last``.
        weight: Factor on the term in the total.
    """

    relational: ClassVar[bool] = True

    def __init__(self, *, mapping: MappingSpec = LAST, pooling: str = "mean", weight: float = 1.0) -> None:
        super().__init__(mapping=mapping, weight=weight)
        if pooling not in POOLINGS:
            raise RecipeError(f"{self.name}.pooling is '{pooling}'.", near_match(pooling, POOLINGS))
        self.pooling = pooling

    def bind(self, student: Shape, teacher: Shape | None) -> None:
        super().bind(student, teacher)
        self.student_needs = Needs(hidden_states=frozenset(s for s, _ in self.pairs))
        self.teacher_needs = Needs(hidden_states=frozenset(t for _, t in self.pairs))

    def count(self, batch: Batch) -> Tensor:
        return valid_examples(batch).sum()

    def pooled(self, student: Signals, teacher: Signals, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """Representations by pair, student first, each ``[examples, width]``; rows of padding alone are left out."""
        valid = valid_tokens(batch)
        present = valid.any(-1)
        return [
            (
                pool(student.hidden_states[s], valid, self.pooling)[present],
                pool(teacher.hidden_states[t], valid, self.pooling)[present],
            )
            for s, t in self.pairs
        ]
