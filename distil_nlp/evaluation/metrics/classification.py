"""Metrics of classes, and of labels of which a row has any number."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from distil_nlp.evaluation.bootstrap import RowTotals
from distil_nlp.evaluation.metrics.base import OfflineMetric, f1, mean_of_rows, metric, precision, recall


@metric("accuracy")
class Accuracy(OfflineMetric):
    """The share of right answers."""

    def row_totals(self, references: Any, predictions: Any) -> RowTotals:
        return mean_of_rows(np.equal(references, predictions))


class OfClassOne(OfflineMetric):
    """Of two classes: how well class 1 is found."""

    two_classes = True

    def row_totals(self, references: Any, predictions: Any) -> RowTotals:
        """Whether class 1 is right, given and true, of each row."""
        true, given = np.equal(references, 1), np.equal(predictions, 1)
        return RowTotals(np.stack([true & given, given, true], axis=1).astype(np.float64), self.of_totals)


@metric("f1")
class F1(OfClassOne):
    """F1 of class 1, for two classes: the harmonic mean of precision and recall, 0 where undefined."""

    of_totals = staticmethod(f1)


@metric("f1_macro")
class F1Macro(OfflineMetric):
    """The mean F1 of all classes that occur, each counting the same."""

    def score(self, references: NDArray[Any], predictions: NDArray[Any]) -> float:
        return sklearn_metrics.f1_score(references, predictions, average="macro", zero_division=0)


@metric("precision")
class Precision(OfClassOne):
    """Right answers among those of class 1, for two classes; 0 where class 1 is never answered."""

    of_totals = staticmethod(precision)


@metric("recall")
class Recall(OfClassOne):
    """The share of class 1 that is found, for two classes; 0 where class 1 does not occur."""

    of_totals = staticmethod(recall)


@metric("f1_micro")
class F1Micro(OfflineMetric):
    """F1 over all labels of all rows together, where a row has any number of them."""

    takes = "labels"

    def row_totals(self, references: Any, predictions: Any) -> RowTotals:
        right = np.logical_and(references, predictions).sum(axis=1)
        both = np.add(references, predictions).sum(axis=1)
        return RowTotals(np.stack([2.0 * right, both], axis=1), self.of_totals)


@metric("f1_samples")
class F1Samples(OfflineMetric):
    """The mean over rows of the F1 of a row's labels; 1 where none is right and none is given."""

    takes = "labels"

    def row_totals(self, references: Any, predictions: Any) -> RowTotals:
        right, both = 2.0 * np.logical_and(references, predictions).sum(1), np.add(references, predictions).sum(1)
        return mean_of_rows(np.divide(right, both, out=np.ones_like(right), where=both > 0))


@metric("matthews_correlation")
class MatthewsCorrelation(OfflineMetric):
    """The correlation of answers and truth over any number of classes; 0 where either never varies."""

    def score(self, references: NDArray[Any], predictions: NDArray[Any]) -> float:
        return sklearn_metrics.matthews_corrcoef(references, predictions)
