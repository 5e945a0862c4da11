"""How far a figure could move by the luck of the test rows: bootstrap intervals over those rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distil_nlp.errors import DataError

FloatArray = NDArray[np.float64]
ScoreFn = Callable[[Any, Any], Any]
"""``(references, predictions)`` to scores or :class:`RowTotals` per row, or to one number for the whole set."""

MIN_ROWS = 20
"""Below this, resampling the rows says too little to call any difference real."""

WHOLE_SET_SAMPLES = 1000
"""Most samples drawn for a score of the whole set: each costs one call of the metric per model."""

_CHUNK = 1 << 21  # row indices held at once: 16 MB, whatever the number of samples


class RowTotals(NamedTuple):
    """Figures of each row whose sums over rows make a score: right answers and rows for accuracy, say.

    Attributes:
        figures: ``[rows, figures]``.
        score: From sums to scores, ``[..., figures]`` to ``[...]``.
    """

    figures: FloatArray
    score: Callable[[FloatArray], FloatArray]


@dataclass(frozen=True)
class MetricInterval:
    """One model's score on the whole test set and the interval that resampling the rows gives it."""

    value: float
    low: float
    high: float
    confidence: float
    samples: int
    rows: int


@dataclass(frozen=True)
class Interval:
    """The difference ``a - b`` on the whole test set and its paired bootstrap interval."""

    difference: float
    low: float
    high: float
    confidence: float
    samples: int
    rows: int

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval excludes zero, on a test set large enough to say so."""
        return self.rows >= MIN_ROWS and not self.low <= 0.0 <= self.high

    def in_words(
        self,
        *,
        subject: str = "The student",
        baseline: str = "its control",
        points: bool = True,
        lower_is_better: bool = False,
    ) -> str:
        """Says the difference, its interval and what follows, in one sentence.

        Args:
            subject: What ``a`` is, as the sentence begins.
            baseline: What ``b`` is, in the middle of a sentence.
            points: Say the difference in points of a hundred (accuracy, F1), not in the metric's own unit.
            lower_is_better: Say so, lest "below" sound bad.
        """
        scale, unit, decimals = (100.0, " points", 1) if points else (1.0, "", 3)
        difference, low, high = scale * self.difference, scale * self.low, scale * self.high
        while decimals < 4 and any(x and not round(x, decimals) for x in (difference, low, high)):
            decimals += 1  # "0.0 points above" would say that two different figures are the same
        side = "above" if difference > 0 else "below"
        is_at = f"is {abs(difference):.{decimals}f}{unit} {side}" if difference else "scores the same as"
        baseline += ", where lower is better" if lower_is_better else ""
        if self.rows < MIN_ROWS:
            return f"{subject} {is_at} {baseline}; {self.rows} test rows are too few to say more."
        bounds = f"the {100 * self.confidence:g} % interval [{_signed(low, decimals)}, {_signed(high, decimals)}]"
        verdict = "excludes zero, so this is beyond" if self.beyond_noise else "includes zero, so this is within"
        return f"{subject} {is_at} {baseline}; {bounds} {verdict} noise."


def paired_bootstrap(
    score_fn: ScoreFn,
    references: Sequence[Any],
    predictions_a: Sequence[Any],
    predictions_b: Sequence[Any],
    *,
    samples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    r"""Percentile interval of ``score(a) - score(b)`` over resampled test rows, the same rows for both.

    .. math:: \delta^{*} = s(y_{i^*}, a_{i^*}) - s(y_{i^*}, b_{i^*}), \quad i^* \sim U\{1..n\}^n

    A ``score_fn`` that returns scores or figures per row is resampled as arrays. One that returns a number is called
    on the rows of every sample, and at most :data:`WHOLE_SET_SAMPLES` samples are drawn.

    Args:
        score_fn: ``(references, predictions)`` to the metric, to ``[rows]`` scores whose mean it is, or to the
            :class:`RowTotals` of which it is made.
        references: What is right, one entry per row.
        predictions_a: The first model's predictions, in the order of ``references``.
        predictions_b: The second model's predictions, in the same order.
        samples: Resampled test sets.
        confidence: Mass of the interval, between 0 and 1.
        seed: Of the resampling.

    Raises:
        DataError: Without rows, with predictions of another length, or with a score that is never a number.

    References:
        Koehn (2004), Statistical Significance Tests for Machine Translation Evaluation, section 3 (paired
        resampling; here with the interval of the difference rather than the share of wins).
        Efron & Tibshirani (1993), An Introduction to the Bootstrap, chapter 13 (the percentile interval).
    """
    scores, resampled = _bootstrap(score_fn, references, (predictions_a, predictions_b), samples, seed)
    low, high, drawn = _percentiles(resampled[:, 0] - resampled[:, 1], confidence)
    return Interval(float(scores[0] - scores[1]), low, high, confidence, drawn, len(references))


def metric_interval(
    score_fn: ScoreFn,
    references: Sequence[Any],
    predictions: Sequence[Any],
    *,
    samples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> MetricInterval:
    """Percentile interval of one model's score over resampled test rows; see :func:`paired_bootstrap`.

    Two such intervals that overlap do not make a difference noise: ask :func:`paired_bootstrap` for that.

    Raises:
        DataError: Without rows, with predictions of another length, or with a score that is never a number.
    """
    scores, resampled = _bootstrap(score_fn, references, (predictions,), samples, seed)
    low, high, drawn = _percentiles(resampled[:, 0], confidence)
    return MetricInterval(float(scores[0]), low, high, confidence, drawn, len(references))


def correct_rows(references: Sequence[Any], predictions: Sequence[Any]) -> FloatArray:
    """Per-row accuracy, ``[rows]`` of 0 and 1: the ``score_fn`` whose mean is accuracy or exact match."""
    pairs = zip(references, predictions, strict=True)
    return np.fromiter((float(truth == predicted) for truth, predicted in pairs), dtype=np.float64)


def _bootstrap(
    score_fn: ScoreFn,
    references: Sequence[Any],
    models: tuple[Sequence[Any], ...],
    samples: int,
    seed: int,
) -> tuple[FloatArray, FloatArray]:
    """Scores on the whole set, ``[models]``, and on the resampled sets, ``[samples, models]``."""
    rows = check_rows("A bootstrap interval over the test rows", references, *models)
    found = [score_fn(references, predictions) for predictions in models]
    if all(isinstance(each, RowTotals) for each in found):
        return _totalled(found, samples, seed)
    scores = np.array(found, dtype=np.float64)
    if scores.shape == (len(models), rows):
        return scores.mean(axis=1), _resampled_sums(scores[..., None], samples, seed)[..., 0].T / rows
    if scores.shape != (len(models),):
        raise DataError(
            f"Scores of {rows} rows were asked for.",
            f"The score function returned the shape {scores.shape[1:]}.",
            "Return one score per row, or one number for the whole set.",
        )
    resampled = [
        [score_fn(truth, _take(predictions, chosen)) for predictions in models]
        for chunk in _draws(rows, min(samples, WHOLE_SET_SAMPLES), seed)
        for chosen in chunk
        for truth in [_take(references, chosen)]
    ]
    return scores, np.array(resampled, dtype=np.float64)


def _totalled(found: Sequence[RowTotals], samples: int, seed: int) -> tuple[FloatArray, FloatArray]:
    figures = np.stack([each.figures for each in found])  # [models, rows, figures]
    score = found[0].score
    return score(figures.sum(axis=1)), score(_resampled_sums(figures, samples, seed)).T


def _resampled_sums(figures: FloatArray, samples: int, seed: int) -> FloatArray:
    """Sums over resampled rows, ``[models, samples, figures]``; NaN where a figure of a row drawn is no finite number.

    They are a product of matrices: how often each row is drawn, ``[samples, rows]``, and the figures.

    Args:
        figures: ``[models, rows, figures]``.
        samples: Resampled test sets.
        seed: Of the resampling.
    """
    rows = figures.shape[1]
    known = np.isfinite(figures)
    figures, missing = np.where(known, figures, 0.0), (~known).astype(np.float64)  # 0 times infinity would be NaN
    chunks = []
    for chosen in _draws(rows, samples, seed):
        times = np.empty(chosen.shape)  # [chunk, rows]
        for counts, draw in zip(times, chosen, strict=True):
            counts[:] = np.bincount(draw, minlength=rows)
        chunks.append(times @ figures)  # [models, chunk, figures]: equal models have equal sums, to the last digit
        if not known.all():
            chunks[-1][times @ missing > 0] = np.nan
    return np.concatenate(chunks, axis=1)


def _draws(rows: int, samples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yields row indices ``[chunk, rows]`` until ``samples`` are drawn, whatever the size of the chunks."""
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK // rows)
    for start in range(0, samples, step):
        yield generator.integers(0, rows, size=(min(step, samples - start), rows))


def _percentiles(resampled: FloatArray, confidence: float) -> tuple[float, float, int]:
    """Ends of the interval and the samples it rests on: those where the metric is defined."""
    defined = resampled[np.isfinite(resampled)]
    if not len(defined):
        raise DataError(
            "A bootstrap interval of the metric was asked for.",
            "The metric is not a number on any resampled test set.",
            "Check that the metric fits the task and that the test set holds more than one class.",
        )
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1.0 - tail])
    return float(low), float(high), len(defined)


def _take(values: Sequence[Any], chosen: NDArray[np.int64]) -> Any:
    if isinstance(values, np.ndarray):
        return values[chosen]
    return [values[index] for index in chosen]


def check_rows(asked: str, references: Sequence[Any], *predictions: Sequence[Any]) -> int:
    """Returns how many rows there are.

    Raises:
        DataError: There are none, or predictions have another number of them.
    """
    lengths = [len(references), *map(len, predictions)]
    if min(lengths) == 0 or len(set(lengths)) > 1:
        raise DataError(
            f"{asked} was asked for.",
            f"References and predictions have {', '.join(map(str, lengths))} rows.",
            "Give every model's predictions for the same test rows, in the same order, at least one row.",
        )
    return lengths[0]


def _signed(value: float, decimals: int) -> str:
    return f"{value:+.{decimals}f}" if value else f"{0:.{decimals}f}"
