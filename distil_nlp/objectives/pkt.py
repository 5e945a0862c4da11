"""Relation-based distillation: who is whose neighbour, as a distribution."""

from __future__ import annotations

from torch import Tensor

from distil_nlp.functional.relation import probability_transfer
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_examples import ExampleObjective
from distil_nlp.signals import Batch, Signals


@OBJECTIVES.register("pkt")
class PKT(ExampleObjective):
    r"""KL divergence between distributions over the other examples of a micro-batch.

    .. math:: \frac{1}{n |P|} \sum_{(l,m) \in P} \sum_i \sum_{j \ne i} p_{j|i} \log \frac{p_{j|i}}{q_{j|i}}, \quad
        p_{j|i} = \frac{K(x_i, x_j)}{\sum_{k \ne i} K(x_i, x_k)}, \quad K(a, b) = \frac{1}{2} (\cos(a, b) + 1)

    p of the teacher's block m, q of the student's block l. With fewer than three examples it is 0.

    Use it for retrieval and other uses of representations by their neighbours; the widths may differ. The cosine kernel
    is flat, so values are small: weights in the hundreds are usual (the benchmark of CRD, arXiv:1910.10699, has 30,000
    on a mean over n² entries, n = 64, which is about 470 here).

    Args:
        mapping: Which student block follows which teacher block; the last follows the last.
        pooling: ``mean``, ``cls`` or ``last`` (:class:`ExampleObjective`).
        weight: Factor on the term in the total.

    References:
        Passalis & Tefas (2018), arXiv:1803.10837, with the cosine kernel, as a mean over examples instead of a sum. The
        authors' code counts an example as its own neighbour and takes the mean over all n² entries.
    """

    name = "pkt"

    def values(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        return self.combine([probability_transfer(*pair) for pair in self.pooled(student, teacher, batch)])
