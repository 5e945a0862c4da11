"""Metrics by name: the library's own, and the Hub's for every other name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import evaluate
from numpy.typing import ArrayLike

from distil_nlp.errors import RecipeError, UnresolvedReferenceError, first_line, near_match
from distil_nlp.evaluation.metrics.base import METRICS, OfflineMetric

_LOWER_ON_THE_HUB = {"brier_score", "cer", "mae", "mape", "mase", "perplexity", "smape", "ter", "wer"}


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
        raise UnresolvedReferenceError(
            f"There is no metric '{name}' here, and it cannot be loaded from the Hub.",
            f"{type(error).__name__}: {first_line(error)}",
            f"{near_match(name, METRICS)} These need no network.",
        ) from error


def higher_is_better(name: str) -> bool:
    """Returns whether a higher value is a better model; of the Hub's metrics, the error rates are known."""
    return METRICS[name].higher_is_better if name in METRICS else name not in _LOWER_ON_THE_HUB


def in_points(name: str) -> bool:
    """Returns whether a difference of the metric is said in points of a hundred; the Hub's error rates are not."""
    return METRICS[name].in_points if name in METRICS else name not in _LOWER_ON_THE_HUB


def compute_metrics(
    names: Sequence[str],
    *,
    takes: str = "class",
    label_names: Sequence[str] | None = None,
    references: Callable[[], Any] | None = None,
) -> Callable[[ArrayLike, ArrayLike], dict[str, float]]:
    """Returns the function from predictions and references to the value of each metric, by its name.

    A metric of the Hub that gives several values gives each as ``NAME_VALUE``.

    Args:
        names: Metrics, as :func:`load_metric` knows them.
        takes: What the task's predictions are (:data:`TAKES`).
        label_names: The names of the task's labels, to refuse metrics that are not for them before anything runs.
        references: Gives what is right on the rows to be scored, to refuse metrics that are not defined on them.

    Raises:
        RecipeError: A metric does not suit the predictions, the labels or the rows.
        UnresolvedReferenceError: A metric cannot be had.
    """
    for name in [name for name in names if name in METRICS]:
        if METRICS[name].takes != takes:
            suitable = [other for other in METRICS if METRICS[other].takes == takes]
            raise RecipeError(
                f"The metric '{name}' does not suit the task.",
                f"It is for predictions of the kind '{METRICS[name].takes}'; this task's are '{takes}'.",
                f"Use {', '.join(suitable)}.",
            )
        METRICS[name].check_labels(label_names or ())
    checked = [METRICS[name] for name in names if name in METRICS and METRICS[name].checks_references]
    if checked and references is not None:
        right = references()
        for metric in checked:
            metric.check_references(right)
    loaded = {name: load_metric(name) for name in names}
    for name in [name for name in names if name not in METRICS]:
        _try(name, loaded[name], takes, label_names or (), headline=name == names[0])

    def compute(predictions: ArrayLike, references: ArrayLike) -> dict[str, float]:
        values: dict[str, float] = {}
        for name, metric in loaded.items():
            if isinstance(metric, OfflineMetric):
                values |= _values(name, metric.of_rows(references, predictions))
            else:
                values |= _values(name, metric.compute(predictions=predictions, references=references))
        return values

    return compute


def _values(name: str, result: Mapping[str, Any]) -> dict[str, float]:
    if len(result) == 1:
        return {name: float(next(iter(result.values())))}
    return {f"{name}_{key}": float(value) for key, value in result.items()}


def _try(
    name: str, metric: evaluate.EvaluationModule, takes: str, label_names: Sequence[str], *, headline: bool
) -> None:
    """Runs a metric of the Hub on two rows, one of the first label and one of the last.

    Raises:
        RecipeError: It is not for such predictions, or does not give numbers.
    """
    last = max(len(label_names) - 1, 1)
    rows: dict[str, list[Any]] = {
        "class": [0, last],
        "number": [0.0, 1.0],
        "labels": [[int(label == given) for label in range(last + 1)] for given in (0, last)],
        "vector": [[1.0, 0.0], [0.0, 1.0]],
        "tags": [[tag] for tag in (label_names[0], label_names[-1])] if label_names else [["O"], ["B-X"]],
        "likelihood": [[1.0, 1.0], [2.0, 0.0]],
    }
    given = rows.get(takes, ["one text", "another text"])
    right = {"answer": [[text] for text in given], "likelihood": [1, 1]}.get(takes, given)
    try:
        values = _values(name, metric.compute(predictions=given, references=right))
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise RecipeError(
            f"The metric '{name}' of the Hub does not suit the task, whose predictions are of the kind '{takes}'.",
            f"Tried on two rows it fails with {type(error).__name__}: {first_line(error)}",
            f"Use {', '.join(other for other in METRICS if METRICS[other].takes == takes)}.",
        ) from error
    if headline and list(values) != [name]:
        raise RecipeError(
            f"The metric '{name}' stands first and is the headline, which is one number.",
            f"It gives {', '.join(values) or 'none'}.",
            "Put another first.",
        )
