"""Relation-based distillation: the Gram matrix of a batch."""

from __future__ import annotations

from torch import Tensor

from distil_nlp.functional.relation import similarity_preserving
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_examples import ExampleObjective
from distil_nlp.signals import Batch, Signals


@OBJECTIVES.register("similarity_preserving")
class SimilarityPreserving(ExampleObjective):
    r"""Squared difference between the normalised Gram matrices of a micro-batch.

    .. math:: \frac{1}{n^2 |P|} \sum_{(l,m) \in P} \| G^s_l - G^t_m \|_F^2, \quad
        G_i = \frac{x_i X^\top}{\| x_i X^\top \|}

    for the n representations X of a micro-batch; an example's value is its row's part.

    Use it where pairs of inputs that are alike to the teacher should be alike to the student; the widths may differ.
    Values are small (the benchmark of CRD, arXiv:1910.10699, has a weight of 3000), and smaller still for mean-pooled
    states, which have much in common: the distances of ``rkd`` do not see what all examples share.

    Args:
        mapping: Which student block follows which teacher block; the last follows the last.
        pooling: ``mean``, ``cls`` or ``last`` (:class:`ExampleObjective`).
        weight: Factor on the term in the total.

    References:
        Tung & Mori (2019), arXiv:1907.09682, on pooled hidden states instead of whole activation maps, and as the mean
        over pairs of layers instead of their sum.
    """

    name = "similarity_preserving"

    def values(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        return self.combine([similarity_preserving(*pair) for pair in self.pooled(student, teacher, batch)])
