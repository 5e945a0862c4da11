"""Relation-based distillation: distances and angles between examples."""

from __future__ import annotations

import torch
from torch import Tensor

from distil_nlp.errors import RecipeError
from distil_nlp.functional.relation import rkd_angle, rkd_distance
from distil_nlp.mapping import MappingSpec
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_examples import LAST, ExampleObjective
from distil_nlp.signals import Batch, Signals


@OBJECTIVES.register("rkd")
class RKD(ExampleObjective):
    r"""Huber loss between the distances, and between the angles, of the examples in a micro-batch.

    .. math:: \frac{\lambda_D}{n(n-1)} \sum_{i \ne j} l_1(\psi_D^s(i,j), \psi_D^t(i,j))
        + \frac{\lambda_A}{n(n-1)(n-2)} \sum_{i \ne j \ne k} l_1(\psi_A^s(i,j,k), \psi_A^t(i,j,k))

    with distances :math:`\psi_D` in units of their mean over the micro-batch, and :math:`\psi_A` the cosine of the
    angle at j. An example's value is the mean over its partners (the angles at it), so the mean over examples is the
    mean over ordered pairs and triples. The distances of one example and the angles of two are 0.

    Use it where the geometry of sentence representations matters (retrieval, clustering, metric learning), or where the
    widths differ: it needs no projection. It wants micro-batches of 16 examples or more, since accumulation does not
    join them.

    Args:
        distance: :math:`\lambda_D`, at least 0.
        angle: :math:`\lambda_A`, at least 0.
        mapping: Which student block follows which teacher block; the last follows the last.
        pooling: ``mean``, ``cls`` or ``last`` (:class:`ExampleObjective`).
        weight: Factor on the term in the total.

    References:
        Park et al. (2019), arXiv:1904.05068, sections 3.2.1 and 3.2.2. Means over tuples of distinct examples
        instead of sums; the means in the authors' code count the diagonal, too. The weights are those of their code for
        classification, 25 and 50 (for metric learning, 1 and 2), which first scales each representation to length 1;
        here they are taken as they are: neither potential depends on their common scale, but both do on how their
        lengths differ.
    """

    name = "rkd"

    def __init__(
        self,
        *,
        distance: float = 25.0,
        angle: float = 50.0,
        mapping: MappingSpec = LAST,
        pooling: str = "mean",
        weight: float = 1.0,
    ) -> None:
        super().__init__(mapping=mapping, pooling=pooling, weight=weight)
        if min(distance, angle) < 0 or max(distance, angle) == 0:
            raise RecipeError(
                f"rkd.distance is {distance}, rkd.angle is {angle}.",
                "Neither is negative, and at least one is above 0.",
                "25 and 50 are usual.",
            )
        self.distance, self.angle = distance, angle

    def values(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        return self.combine([self._relations(*pair) for pair in self.pooled(student, teacher, batch)])

    def _relations(self, ours: Tensor, theirs: Tensor) -> Tensor:
        parts = []
        if self.distance:
            parts.append(self.distance * rkd_distance(ours, theirs))
        if self.angle:
            parts.append(self.angle * rkd_angle(ours, theirs))
        return torch.stack(parts).sum(0)  # [examples]
