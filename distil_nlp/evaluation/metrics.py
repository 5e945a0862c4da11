"""Metrics by name: ``evaluate.Metric`` objects that need no network, and the Hub's for every other name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import metrics as sklearn_metrics

from distil_nlp.errors import RecipeError, UnresolvedReferenceError, near_match
from distil_nlp.registry import Registry

METRICS: Registry[type[OfflineMetric]] = Registry("metric")

_LOWER_ON_THE_HUB = {"brier_score", "cer", "mae", "mape", "mase", "perplexity", "smape", "ter", "wer"}


class OfflineMetric(evaluate.Metric):
    """A metric whose code comes with this library; ``compute`` returns ``{its registered name: value}``.

    Attributes:
        key: The name of the value that ``compute`` returns, the same as the registered one.
        higher_is_better: Whether a higher value is a better model.
        values: The type of predictions and references: class ids or numbers.
        two_classes: Whether it is defined for the class ids 0 and 1 only.
    """

    key: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    values: ClassVar[str] = "int64"
    two_classes: ClassVar[bool] = False

    def __init__(self, **kwargs: Any) -> None:
        # In memory: no file is written and locked for each call.
        super().__init__(**{"keep_in_memory": True, **kwargs})

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value(self.values)
        return evaluate.MetricInfo(
            description=(type(self).__doc__ or "").partition("\n")[0],
            citation="",
            features=datasets.Features({"predictions": value, "references": value}),
        )

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        truth, answers = np.asarray(references), np.asarray(predictions)
        if self.two_classes and (other := {*np.unique(truth), *np.unique(answers)} - {0, 1}):
            raise _two_classes_only(self.key, f"There are class ids such as {max(other)}.")
        return {self.key: float(self.score(truth, answers))}

    def score(self, references: NDArray[Any], predictions: NDArray[Any]) -> float:
        """Returns the metric of one value per row. Shapes: ``[rows]``."""
        raise NotImplementedError


def _metric(name: str) -> Callable[[type[OfflineMetric]], type[OfflineMetric]]:
    def add(metric: type[OfflineMetric]) -> type[OfflineMetric]:
        metric.key = name
        return METRICS.register(name)(metric)

    return add


@_metric("accuracy")
class Accuracy(OfflineMetric):
    """The share of right answers."""

    def score(self, references: NDArray[Any], predictions: NDArray[Any]) -> float:
        return sklearn_metrics.accuracy_score(references, predictions)


@_metric("f1")
class F1(OfflineMetric):
    """F1 of class 1, for two classes: the harmonic mean of precision and recall, 0 where undefined."""

    two_classes = True

    def score(self, references: NDArray[Any], predictions: NDArray[Any]) -> float:
        return sklearn_metrics.f1_score(references, predictions, pos_label=1, zero_division=0)


@_metric("f1_macro")
class F1Macro(OfflineMetric):
    """The mean F1 of all classes that occur, each counting the same."""

    def score(self, references: NDArray[Any], predictions: NDArray[Any]) -> float:
        return sklearn_metrics.f1_score(references, predictions, average="macro", zero_division=0)


@_metric("precision")
class Precision(OfflineMetric):
    """Right answers among those of class 1, for two classes; 0 where class 1 is never answered."""

    two_classes = True

    def score(self, references: NDArray[Any], predictions: NDArray[Any]) -> float:
        return sklearn_metrics.precision_score(references, predictions, pos_label=1, zero_division=0)


@_metric("recall")
class Recall(OfflineMetric):
    """The share of class 1 that is found, for two classes; 0 where class 1 does not occur."""

    two_classes = True

    def score(self, references: NDArray[Any], predictions: NDArray[Any]) -> float:
        return sklearn_metrics.recall_score(references, predictions, pos_label=1, zero_division=0)


@_metric("matthews_correlation")
class MatthewsCorrelation(OfflineMetric):
    """The correlation of answers and truth over any number of classes; 0 where either never varies."""

    def score(self, references: NDArray[Any], predictions: NDArray[Any]) -> float:
        return sklearn_metrics.matthews_corrcoef(references, predictions)


@_metric("pearson")
class Pearson(OfflineMetric):
    """The linear correlation of two columns of numbers; NaN where either never varies."""

    values = "float64"

    def score(self, references: NDArray[Any], predictions: NDArray[Any]) -> float:
        return _correlation(references, predictions)


@_metric("spearman")
class Spearman(OfflineMetric):
    """The correlation of the ranks of two columns of numbers; NaN where either never varies."""

    values = "float64"

    def score(self, references: NDArray[Any], predictions: NDArray[Any]) -> float:
        return _correlation(_ranks(references), _ranks(predictions))


@_metric("mse")
class MeanSquaredError(OfflineMetric):
    """The mean of the squared errors."""

    higher_is_better = False
    values = "float64"

    def score(self, references: NDArray[Any], predictions: NDArray[Any]) -> float:
        return sklearn_metrics.mean_squared_error(references, predictions)


def _correlation(one: NDArray[Any], other: NDArray[Any]) -> float:
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the rank of each value from 1; equal values share their mean rank."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[places])


def load_metric(name: str) -> evaluate.EvaluationModule:
    """Returns the metric of a name: the library's own, else ``evaluate.load(name)``, which needs the Hub.

    Raises:
        RecipeError: The name is of somebody's repository, whose code would be run.
        UnresolvedReferenceError: The library has no such metric, and none can be had from the Hub.
    """
    if name in METRICS:
        return METRICS[name]()
    if "/" in name:
        raise RecipeError(
            f"Cannot use '{name}' as a metric.",
            "It would run code of its repository.",
            near_match(name, METRICS),
        )
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        return evaluate.load(name)
    except (OSError, HTTPError, ImportError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UnresolvedReferenceError(
            f"There is no metric '{name}' here, and it cannot be loaded from the Hub.",
            f"{type(error).__name__}: {reason}",
            f"{near_match(name, METRICS)} These need no network.",
        ) from error


def higher_is_better(name: str) -> bool:
    """Returns whether a higher value is a better model; of the Hub's metrics, the error rates are known."""
    return METRICS[name].higher_is_better if name in METRICS else name not in _LOWER_ON_THE_HUB


def compute_metrics(
    names: Sequence[str], *, num_labels: int | None = None
) -> Callable[[ArrayLike, ArrayLike], dict[str, float]]:
    """Returns the function from predictions and references to the value of each metric, by its name.

    A metric of the Hub that gives several values gives each as ``NAME_VALUE``.

    Args:
        names: Metrics, as :func:`load_metric` knows them.
        num_labels: How many classes the task has, to refuse metrics that are for two before anything runs.

    Raises:
        RecipeError: A metric does not suit the number of classes.
        UnresolvedReferenceError: A metric cannot be had.
    """
    if num_labels is not None and num_labels > 2:
        for name in names:
            if name in METRICS and METRICS[name].two_classes:
                raise _two_classes_only(name, f"The data has {num_labels} classes.")
    loaded = {name: load_metric(name) for name in names}

    def compute(predictions: ArrayLike, references: ArrayLike) -> dict[str, float]:
        values: dict[str, float] = {}
        for name, metric in loaded.items():
            result = metric.compute(predictions=predictions, references=references)
            if len(result) == 1:
                values[name] = float(next(iter(result.values())))
            else:
                values |= {f"{name}_{key}": float(value) for key, value in result.items()}
        return values

    return compute


def _two_classes_only(name: str, found: str) -> RecipeError:
    others = [other for other in METRICS if not METRICS[other].two_classes and METRICS[other].values == "int64"]
    return RecipeError(f"The metric '{name}' is for two classes.", found, f"Use one of {', '.join(others)}.")
