"""Metrics of columns of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from distil_nlp.errors import RecipeError
from distil_nlp.evaluation.bootstrap import RowTotals
from distil_nlp.evaluation.metrics.base import OfflineMetric, mean_of_rows, metric

_ROUNDING = 1e-12  # of a difference between two sums, relative to them


class Correlation(OfflineMetric):
    """Of two columns of numbers; NaN where either never varies."""

    takes = "number"
    checks_references = True

    @classmethod
    def check_references(cls, references: NDArray[Any]) -> None:
        """Refuses rows of which all have the same number."""
        if np.ptp(references) == 0:
            raise RecipeError(
                f"The metric '{cls.key}' is not defined for numbers that never vary.",
                f"It is {references[0]:g} in all {len(references)} rows that are to be scored.",
                "Use mse, or score rows with other numbers.",
            )


@metric("pearson")
class Pearson(Correlation):
    """The linear correlation of two columns of numbers; NaN where either never varies."""

    def row_totals(self, references: Any, predictions: Any) -> RowTotals:
        x, y = (np.asarray(values, dtype=np.float64) for values in (references, predictions))
        x, y = x - x.mean(), y - y.mean()  # or else little is left of the digits of the differences below
        return RowTotals(np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1), self.of_totals)

    @staticmethod
    def of_totals(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """From the numbers of rows and the sums of x, y, x², y² and xy, ``[..., 6]``, to the correlation."""
        rows, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
        spreads = [(rows * squares - total * total, rows * squares) for total, squares in ((x, xx), (y, yy))]
        varies = np.logical_and.reduce([spread > _ROUNDING * of for spread, of in spreads])
        root = np.sqrt(np.where(varies, spreads[0][0] * spreads[1][0], 1.0))
        return np.where(varies, (rows * xy - x * y) / root, np.nan)


@metric("spearman")
class Spearman(Correlation):
    """The correlation of the ranks of two columns of numbers; NaN where either never varies."""

    def score(self, references: NDArray[Any], predictions: NDArray[Any]) -> float:
        ranks = np.stack([rankdata(references), rankdata(predictions)])
        return float(np.corrcoef(ranks)[0, 1]) if np.ptp(ranks, axis=1).all() else float("nan")


@metric("mse")
class MeanSquaredError(OfflineMetric):
    """The mean of the squared errors."""

    higher_is_better = False
    in_points = False
    takes = "number"

    def row_totals(self, references: Any, predictions: Any) -> RowTotals:
        return mean_of_rows(np.square(np.subtract(references, predictions)))
