"""What an objective is, and what objectives on pairs of layers have in common."""

from __future__ import annotations

import abc
from typing import ClassVar

from torch import Tensor, nn

from distil_nlp.errors import ModelError, RecipeError
from distil_nlp.functional.reduce import mean_over
from distil_nlp.mapping import LayerMapping, LayerPairs, MappingSpec
from distil_nlp.registry import Registry
from distil_nlp.signals import Batch, Needs, Shape, Signals

OBJECTIVES: Registry[type[Objective]] = Registry("objective")


class Objective(nn.Module, abc.ABC):
    """One term of a distillation loss.

    An objective declares what it reads of either model (:attr:`student_needs`, :attr:`teacher_needs`), says how
    many items a batch has for it (:meth:`count`) and gives one value per item (:meth:`values`). Reduction is the
    same for all: ``weight * sum(values) / count``.

    Args:
        weight: Factor on the term in the total.
    """

    name: ClassVar[str]
    uses_teacher: ClassVar[bool] = True
    relational: ClassVar[bool] = False  # whether an item's value depends on the other items of its micro-batch

    def __init__(self, *, weight: float = 1.0) -> None:
        super().__init__()
        if weight < 0:
            raise RecipeError(
                f"{self.name}.weight is {weight}.", "A weight is not negative.", "Use 0 to switch it off."
            )
        self.weight = weight
        self.student_needs = Needs()
        self.teacher_needs = Needs()

    def bind(self, student: Shape, teacher: Shape | None) -> None:
        """Fits the objective to the two models; called once, before training.

        Args:
            student: The student's measures.
            teacher: The teacher's; None if there is none, for objectives that do without.

        Raises:
            DistilError: if the objective cannot serve these models.
        """

    @abc.abstractmethod
    def count(self, batch: Batch) -> Tensor:
        """Number of this objective's items in a batch, a scalar tensor on the batch's device."""

    @abc.abstractmethod
    def values(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        """One value per item, before the weight."""

    def forward(self, student: Signals, teacher: Signals, batch: Batch, count: Tensor | float | None = None) -> Tensor:
        """The weighted term.

        Args:
            student: Signals of the student.
            teacher: Signals of the teacher.
            batch: The batch that both have seen.
            count: Items in the whole optimizer step, over micro-batches and processes; this batch's own if None.
        """
        if count is None:
            count = self.count(batch).clamp(min=1)
        return self.weight * mean_over(self.values(student, teacher, batch), count)

    def extra_repr(self) -> str:
        return f"weight={self.weight}"


class LayerObjective(Objective):
    """An objective that matches pairs of layers; the term is the mean over the pairs.

    Args:
        mapping: Which student block follows which teacher block (:class:`~distil_nlp.mapping.LayerMapping`).
        weight: Factor on the term in the total.
    """

    def __init__(self, *, mapping: MappingSpec = "uniform", weight: float = 1.0) -> None:
        super().__init__(weight=weight)
        self.mapping = LayerMapping(mapping)
        self.pairs: LayerPairs = []

    def bind(self, student: Shape, teacher: Shape | None) -> None:
        if teacher is None:
            raise ModelError(f"{self.name} follows a teacher's layers.", "There is no teacher.", "Give one.")
        self.pairs = self.mapping.resolve(student.num_layers, teacher.num_layers)

    def extra_repr(self) -> str:
        return f"weight={self.weight}, mapping={self.mapping}"
