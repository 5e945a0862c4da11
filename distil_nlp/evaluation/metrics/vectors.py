"""Metrics of embeddings, one a row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distil_nlp.evaluation.bootstrap import RowTotals
from distil_nlp.evaluation.metrics.base import OfflineMetric, mean_of_rows, metric


@metric("cosine_to_teacher")
class CosineToTeacher(OfflineMetric):
    """The mean cosine between a row's embedding and the teacher's."""

    takes = "vector"

    def row_totals(self, references: Any, predictions: Any) -> RowTotals:
        return mean_of_rows(cosines(np.asarray(references), np.asarray(predictions)))


def cosines(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """The cosine of each pair of rows, ``[rows, width]`` to ``[rows]``; 0 where either row is zero."""
    products = np.einsum("rw,rw->r", one, other, dtype=np.float64)
    lengths = np.sqrt(
        np.einsum("rw,rw->r", one, one, dtype=np.float64) * np.einsum("rw,rw->r", other, other, dtype=np.float64)
    )
    return np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
