"""What a metric is: an ``evaluate.Metric`` whose code comes with this library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike, NDArray

from distil_nlp.errors import RecipeError
from distil_nlp.evaluation.bootstrap import RowTotals, check_rows
from distil_nlp.registry import Registry

METRICS: Registry[type[OfflineMetric]] = Registry("metric")

TAKES: dict[str, Any] = {
    "class": datasets.Value("int64"),
    "number": datasets.Value("float64"),
    "labels": datasets.Sequence(datasets.Value("int64")),  # 1 for a label that it has, 0 for another
    "vector": datasets.Sequence(datasets.Value("float32")),
    "tags": datasets.Sequence(datasets.Value("string")),
    "text": datasets.Value("string"),
    "answer": datasets.Value("string"),
    "likelihood": datasets.Sequence(datasets.Value("float64")),  # what a row's tokens cost, and how many are right
}
REFERENCES = {
    "answer": datasets.Sequence(datasets.Value("string")),  # any of which is right
    "likelihood": datasets.Value("int64"),  # how many tokens there are
}


class OfflineMetric(evaluate.Metric):
    """A metric whose code comes with this library; ``compute`` returns ``{its registered name: value}``.

    Attributes:
        key: The name of the value that ``compute`` returns, the same as the registered one.
        higher_is_better: Whether a higher value is a better model.
        in_points: Whether a difference is said in points of a hundred.
        takes: What predictions and references are, one a row: see :data:`TAKES`.
        two_classes: Whether it is defined for the class ids 0 and 1 only.
        checks_references: Whether it is not defined for whatever may be right, as :meth:`check_references` has it.
    """

    key: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    in_points: ClassVar[bool] = True
    takes: ClassVar[str] = "class"
    two_classes: ClassVar[bool] = False
    checks_references: ClassVar[bool] = False

    def __init__(self, **kwargs: Any) -> None:
        # In memory: no file is written and locked for each call.
        super().__init__(**{"keep_in_memory": True, **kwargs})

    def _info(self) -> evaluate.MetricInfo:
        value = TAKES[self.takes]
        return evaluate.MetricInfo(
            description=(type(self).__doc__ or "").partition("\n")[0],
            citation="",
            features=datasets.Features({"predictions": value, "references": REFERENCES.get(self.takes, value)}),
        )

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        check_rows(f"The metric '{self.key}'", references, predictions)
        feature = TAKES[self.takes]
        dtype = getattr(feature, "feature", feature).dtype
        truth, answers = (
            values if dtype == "string" else np.asarray(values, dtype) for values in (references, predictions)
        )
        if self.two_classes and (other := {*np.unique(truth), *np.unique(answers)} - {0, 1}):
            raise two_classes_only(self.key, f"There are class ids such as {max(other)}.")
        totals = self.row_totals(truth, answers)
        if totals is None:
            return {self.key: float(self.score(np.asarray(truth), np.asarray(answers)))}
        return {self.key: float(totals.score(totals.figures.sum(axis=0)))}

    def of_rows(self, references: Any, predictions: Any) -> dict[str, float]:
        """What ``compute`` returns, of rows as they are: it would copy them to Arrow, and from there to lists.

        Raises:
            DataError: Without rows, or with predictions of another number of rows.
        """
        return self._compute(predictions, references)

    @classmethod
    def check_labels(cls, names: Sequence[str]) -> None:
        """Refuses labels that the metric is not for.

        Raises:
            RecipeError: with the metrics that are.
        """
        if cls.two_classes and len(names) > 2:
            raise two_classes_only(cls.key, f"The data has {len(names)} classes.")

    @classmethod
    def check_references(cls, references: NDArray[Any]) -> None:
        """Refuses rows on which it is not defined.

        Raises:
            RecipeError: with what to use for them.
        """

    def score(self, references: NDArray[Any], predictions: NDArray[Any]) -> float:
        """Returns the metric of one value per row, where :meth:`row_totals` do not make it. Shapes: ``[rows]``."""
        raise NotImplementedError

    def row_totals(self, references: Any, predictions: Any) -> RowTotals | None:
        """Figures of each row whose sums make the metric and its bootstrap intervals; None where :meth:`score` does."""
        return None

    @staticmethod
    def of_totals(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """From the sums of :meth:`row_totals`'s figures, ``[..., figures]``, to the metric: of two, their ratio."""
        return ratio(sums)


def mean_of_rows(values: ArrayLike) -> RowTotals:
    """For metrics that are a mean over rows."""
    column = np.asarray(values, dtype=np.float64)
    return RowTotals(np.stack([column, np.ones_like(column)], axis=1), ratio)


def ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first figure over the second; 0 where that is 0."""
    top, bottom = sums[..., 0], sums[..., 1]
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom != 0)


def precision(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of what is given that is right; 0 where nothing is. Of sums of right, given and true, ``[..., 3]``."""
    return ratio(sums[..., :2])


def recall(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of what is true that is given; 0 where nothing is. Of the same sums as :func:`precision`."""
    return ratio(sums[..., [0, 2]])


def f1(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """The harmonic mean of :func:`precision` and :func:`recall`; 0 where undefined. Of the same sums."""
    return ratio(np.stack([2 * sums[..., 0], sums[..., 1] + sums[..., 2]], axis=-1))


def metric(name: str) -> Callable[[type[OfflineMetric]], type[OfflineMetric]]:
    """Decorator that registers a metric."""

    def add(cls: type[OfflineMetric]) -> type[OfflineMetric]:
        cls.key = name
        return METRICS.register(name)(cls)

    return add


def two_classes_only(name: str, found: str) -> RecipeError:
    """The error of a metric for two classes that has met more."""
    others = [other for other in METRICS if not METRICS[other].two_classes and METRICS[other].takes == "class"]
    return RecipeError(f"The metric '{name}' is for two classes.", found, f"Use one of {', '.join(others)}.")
