"""Metrics of any number of labels a row, and of numbers: against plain loops, and in bootstrap intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from distil_nlp.evaluation.bootstrap import Interval, RowTotals, metric_interval, paired_bootstrap
from distil_nlp.evaluation.metrics import METRICS, higher_is_better, in_points

Rows = np.ndarray[Any, Any]


def naive_micro(truth: Rows, given: Rows) -> float:
    right = wrong = missed = 0
    for expected, got in zip(truth.tolist(), given.tolist(), strict=True):
        for a, b in zip(expected, got, strict=True):
            right, wrong, missed = right + (a and b), wrong + (b and not a), missed + (a and not b)
    return 2 * right / (2 * right + wrong + missed) if right else 0.0


def naive_samples(truth: Rows, given: Rows) -> float:
    scores = []
    for expected, got in zip(truth.tolist(), given.tolist(), strict=True):
        ours, theirs = {i for i, b in enumerate(got) if b}, {i for i, a in enumerate(expected) if a}
        scores.append(2 * len(ours & theirs) / (len(ours) + len(theirs)) if ours or theirs else 1.0)
    return sum(scores) / len(scores)


def naive_mse(truth: Rows, given: Rows) -> float:
    return sum((a - b) ** 2 for a, b in zip(truth, given, strict=True)) / len(truth)


def naive_pearson(truth: Rows, given: Rows) -> float:
    return float(stats.pearsonr(truth, given).statistic)


def labels(seed: int, rows: int = 40) -> tuple[Rows, Rows, Rows]:
    generator = np.random.default_rng(seed)
    truth = (generator.random((rows, 5)) < 0.3).astype(int)
    one = np.where(generator.random(truth.shape) < 0.8, truth, 1 - truth)
    return truth, one, (generator.random(truth.shape) < 0.3).astype(int)


def values(seed: int, rows: int = 40) -> tuple[Rows, Rows, Rows]:
    generator = np.random.default_rng(seed)
    truth = 1000 + generator.normal(size=rows)  # far from 0, where sums of squares lose their digits
    return truth, truth + 0.5 * generator.normal(size=rows), 3 * generator.normal(size=rows)


CASES = {
    "f1_micro": (naive_micro, labels),
    "f1_samples": (naive_samples, labels),
    "mse": (naive_mse, values),
    "pearson": (naive_pearson, values),
}


@pytest.mark.parametrize("name", CASES)
def test_against_a_loop(name: str) -> None:
    twin, make = CASES[name]
    for seed in range(5):
        truth, *models = make(seed)
        for given in models:
            found = METRICS[name]().compute(predictions=given, references=truth)[name]
            assert found == pytest.approx(twin(truth, given))
            totals = METRICS[name]().row_totals(truth, given)
            assert isinstance(totals, RowTotals)
            assert float(totals.score(totals.figures.sum(axis=0))) == pytest.approx(twin(truth, given))


@pytest.mark.parametrize("name", CASES)
def test_intervals_are_those_of_the_loop(name: str) -> None:
    twin, make = CASES[name]
    truth, one, other = make(11)
    score = METRICS[name]().row_totals
    fast = paired_bootstrap(score, truth, one, other, samples=60, seed=5)
    alone = metric_interval(score, truth, one, samples=60, seed=5)
    scores, differences = [], []
    for chosen in np.random.default_rng(5).integers(0, 40, size=(60, 40)):
        scores.append(twin(truth[chosen], one[chosen]))
        differences.append(scores[-1] - twin(truth[chosen], other[chosen]))
    assert (fast.low, fast.high) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])))
    assert (alone.low, alone.high) == pytest.approx(tuple(np.quantile(scores, [0.025, 0.975])))
    assert alone.value == pytest.approx(twin(truth, one))


def test_rows_without_labels() -> None:
    none, one = np.zeros((2, 3), dtype=int), np.array([[1, 0, 0], [0, 0, 0]])
    for truth, given, micro, samples in [
        (none, none, 0, 1),
        (one, none, 0, 0.5),
        (none, one, 0, 0.5),
        (one, one, 1, 1),
    ]:
        for name, expected in (("f1_micro", micro), ("f1_samples", samples)):
            assert METRICS[name]().compute(predictions=given, references=truth)[name] == expected
            totals = METRICS[name]().row_totals(truth, given)
            assert isinstance(totals, RowTotals)
            assert float(totals.score(totals.figures.sum(axis=0))) == expected


def test_a_correlation_that_is_undefined_on_some_samples_rests_on_the_others() -> None:
    truth = np.array([0.0] * 25 + [1.0])
    given = truth + np.linspace(0, 0.1, 26)
    found = metric_interval(METRICS["pearson"]().row_totals, truth, given, samples=200)
    assert 80 < found.samples < 200
    assert found.value == pytest.approx(naive_pearson(truth, given))


def test_an_error_is_said_in_its_own_unit() -> None:
    words = Interval(-0.05, -0.08, -0.02, 0.95, 100, 40).in_words(points=in_points("mse"), lower_is_better=True)
    assert words.startswith("The student is 0.050 below its control, where lower is better; the 95 % interval [-0.080,")
    assert in_points("squad_f1")
    assert not higher_is_better("mse")
