"""Relation-based distillation: telling the teacher's representation of an example from those of others."""

from __future__ import annotations

from torch import Tensor

from distil_nlp.errors import RecipeError
from distil_nlp.functional.relation import info_nce
from distil_nlp.mapping import MappingSpec
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_examples import LAST, ExampleObjective
from distil_nlp.projection import Projection, ProjectionSettings, ProjectionSpec
from distil_nlp.signals import Batch, Shape, Signals


@OBJECTIVES.register("contrastive")
class Contrastive(ExampleObjective):
    r"""Contrastive loss (InfoNCE) between student and teacher representations, negatives from the micro-batch.

    .. math:: -\frac{1}{2 n |P|} \sum_{(l,m) \in P} \sum_i \left[
        \log \frac{\exp(c_{ii} / \tau)}{\sum_j \exp(c_{ij} / \tau)}
        + \log \frac{\exp(c_{ii} / \tau)}{\sum_j \exp(c_{ji} / \tau)} \right], \quad c_{ij} = \cos(W_l s_i, t_j)

    for student representations s of block l and teacher representations t of block m. It is not 0 where the student is
    the teacher, nor flat there: examples are similar to each other, so none is told from the others with certainty.
    About :math:`\log n` is chance; with one example it is 0.

    Use it to keep examples apart in the student as they are in the teacher, with large micro-batches (32 examples or
    more): negatives come from the micro-batch, and accumulation does not add any. Examples that occur twice in one are
    each other's false negatives.

    Args:
        temperature: :math:`\tau`, above 0.
        mapping: Which student block follows which teacher block; the last follows the last.
        projection: ``"auto"``, ``"linear"``, ``"mlp"``, ``"orthogonal"`` or ``"none"``, or a mapping with ``kind``,
            ``shared`` and ``side`` (:class:`~distil_nlp.projection.ProjectionSettings`).
        pooling: ``mean``, ``cls`` or ``last`` (:class:`ExampleObjective`).
        weight: Factor on the term in the total.

    References:
        Tian et al. (2020), arXiv:1910.10699 (CRD), and Sun et al. (2020), arXiv:2009.14167 (CoDIR); both directions
        and the temperature as in their code. Both take many negatives from a memory bank (CoDIR, in fine-tuning,
        examples with other labels), project both sides to 128 and, in code, take noise-contrastive estimation. Here
        negatives are the other examples of the micro-batch, whatever their labels, only the student is projected, to
        the teacher's width, and the loss is a softmax. CoDIR concatenates the layers; here each pair has a term of its
        own.
    """

    name = "contrastive"

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        mapping: MappingSpec = LAST,
        projection: ProjectionSpec = "auto",
        pooling: str = "mean",
        weight: float = 1.0,
    ) -> None:
        super().__init__(mapping=mapping, pooling=pooling, weight=weight)
        if temperature <= 0:
            raise RecipeError(f"contrastive.temperature is {temperature}.", "It must be above 0.", "0.07 is usual.")
        self.temperature = temperature
        self.projection_settings = ProjectionSettings.read(projection)
        self.projection: Projection | None = None

    def bind(self, student: Shape, teacher: Shape | None) -> None:
        super().bind(student, teacher)
        if teacher is not None:
            self.projection = Projection.between(
                student, teacher, self.projection_settings, count=len(self.pairs), known=self.projection
            )

    def values(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        values = []
        for number, pair in enumerate(self.pooled(student, teacher, batch)):
            ours, theirs = pair if self.projection is None else self.projection.match(*pair, number)
            values.append(info_nce(ours, theirs, temperature=self.temperature))
        return self.combine(values)  # [examples]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, temperature={self.temperature}"
