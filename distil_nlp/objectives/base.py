"""What an objective is, and what objectives on pairs of layers have in common."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from torch import Tensor, nn

from distil_nlp.errors import ModelError, RecipeError
from distil_nlp.functional.reduce import mean_over
from distil_nlp.layer_weights import LAYER_WEIGHTS, LayerWeights, Reduce
from distil_nlp.mapping import LayerMapping, LayerPairs, MappingSpec, kept_in
from distil_nlp.registry import Registry
from distil_nlp.signals import Batch, Needs, Shape, Signals

OBJECTIVES: Registry[type[Objective]] = Registry("objective")


class Objective(nn.Module, abc.ABC):
    """One term of a distillation loss.

    An objective declares what it reads of either model (:attr:`student_needs`, :attr:`teacher_needs`) and of the rows
    beside what models read (:attr:`columns`, which a trainer then leaves in the batches), says how many items a batch
    has for it (:meth:`count`) and gives one value per item (:meth:`values`). Reduction is the same for all:
    ``weight * sum(values) / count``.

    Args:
        weight: Factor on the term in the total.
    """

    name: ClassVar[str]
    uses_teacher: ClassVar[bool] = True
    relational: ClassVar[bool] = False  # whether an item's value depends on the other items of its micro-batch
    columns: ClassVar[tuple[str, ...]] = ()  # read from the batch, where rows have them

    def __init__(self, *, weight: float = 1.0) -> None:
        super().__init__()
        if weight < 0:
            raise RecipeError(
                f"{self.name}.weight is {weight}.", "A weight is not negative.", "Use 0 to switch it off."
            )
        self.weight = weight
        self.balance = 1.0  # set by an adaptive weighting, if there is one
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

    @property
    def whole_logits(self) -> bool:
        """Whether the teacher's logits are compared as they are, the smallest, too: none of them may be made up."""
        return False

    @property
    def by_item(self) -> bool:
        """Whether :meth:`item_values` is all there is to it: then a large vocabulary is never seen at once."""
        return False

    def item_values(self, student_logits: Tensor, teacher_logits: Tensor | None, target: Tensor | None) -> Tensor:
        """One value per item, from logits at some of the items; for objectives that are :attr:`by_item`.

        Args:
            student_logits: ``[items, vocab]``.
            teacher_logits: ``[items, vocab]``; None for objectives without a teacher.
            target: ``[items]`` labels, if there are any.
        """
        raise NotImplementedError

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
        return self.factor * mean_over(self.values(student, teacher, batch), count)

    @property
    def factor(self) -> float:
        """What the term is multiplied by: the weight, and what an adaptive weighting makes of it."""
        return self.weight * self.balance

    def end_step(self, reduce: Reduce) -> None:
        """Called after the backward passes of an optimizer step, for objectives that learn from whole steps.

        Args:
            reduce: The mean of a tensor over processes.
        """

    def extra_repr(self) -> str:
        return f"weight={self.weight}"


class LayerObjective(Objective):
    """An objective that matches pairs of layers.

    The term is the mean over the pairs; or their weighted sum, where the layer mapping learns weights. Subclasses give
    the values of each pair to :meth:`combine`, and ask for layers by number in :meth:`bind`, after ``super().bind``.

    Args:
        mapping: Which student block follows which teacher block (:class:`~distil_nlp.mapping.LayerMapping`).
        weight: Factor on the term in the total.
    """

    def __init__(self, *, mapping: MappingSpec = "uniform", weight: float = 1.0) -> None:
        super().__init__(weight=weight)
        self.layer_weights: LayerWeights | None = None
        self.mapping = LayerMapping(mapping)
        self.pairs: LayerPairs = []

    def bind(self, student: Shape, teacher: Shape | None) -> None:
        if teacher is None:
            raise ModelError(f"{self.name} follows a teacher's layers.", "There is no teacher.", "Give one.")
        kept = kept_in(student, teacher) if self.mapping.spec == "kept" else None
        self.pairs = self.mapping.resolve(student.num_layers, teacher.num_layers, kept)
        if self.layer_weights is None and self.mapping.weighted:
            self.layer_weights = LAYER_WEIGHTS[str(self.mapping.spec)](student, teacher)

    def combine(self, per_pair: list[Tensor]) -> Tensor:
        """From the values of each pair, in the order of :attr:`pairs`, to one value per item.

        Args:
            per_pair: One value per item for each pair, all of one shape.

        Returns:
            ``[items]``: the mean over pairs, or the sum under the weights that the mapping has learned.
        """
        values = torch.stack([pair.flatten() for pair in per_pair])  # [pairs, items]
        if self.layer_weights is None:
            return values.mean(0)
        combined: Tensor = self.layer_weights(values)
        return combined

    def forward(self, student: Signals, teacher: Signals, batch: Batch, count: Tensor | float | None = None) -> Tensor:
        if self.layer_weights is not None:
            self.layer_weights.look(student, teacher, batch)
        return super().forward(student, teacher, batch, count)

    def end_step(self, reduce: Reduce) -> None:
        if self.layer_weights is not None:
            self.layer_weights.end_step(reduce)

    @property
    def layer_map(self) -> LayerPairs:
        """The pairs; of all with all, those that count for more than an even share of the weight."""
        if self.layer_weights is None:
            return self.pairs
        weights = self.layer_weights.pair_weights().flatten().tolist()
        even = (1 - 1e-6) / len(weights)
        return [pair for pair, weight in zip(self.pairs, weights, strict=True) if weight >= even]

    @property
    def student_needs(self) -> Needs:
        """What is read of the student, by the objective and by a mapping that looks at hidden states."""
        return self._student_needs | (self.layer_weights.student_needs if self.layer_weights else Needs())

    @student_needs.setter
    def student_needs(self, needs: Needs) -> None:
        self._student_needs = needs

    @property
    def teacher_needs(self) -> Needs:
        """What is read of the teacher, likewise."""
        return self._teacher_needs | (self.layer_weights.teacher_needs if self.layer_weights else Needs())

    @teacher_needs.setter
    def teacher_needs(self, needs: Needs) -> None:
        self._teacher_needs = needs

    def extra_repr(self) -> str:
        return f"weight={self.weight}, mapping={self.mapping}"
