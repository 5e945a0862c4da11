"""Resampled sums against gathering the rows of every sample."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from distil_nlp.evaluation import bootstrap
from distil_nlp.evaluation.bootstrap import RowTotals, metric_interval, paired_bootstrap
from distil_nlp.evaluation.metrics import METRICS

OF_CLASS_ONE = {
    "f1": sklearn_metrics.f1_score,
    "precision": sklearn_metrics.precision_score,
    "recall": sklearn_metrics.recall_score,
}


def naive(score, models, samples, seed):
    """``[samples, models]``: the rows of one sample after the other."""
    generator, rows = np.random.default_rng(seed), len(models[0])
    draws = [generator.integers(0, rows, size=rows) for _ in range(samples)]
    return np.array([[score(figures[chosen].sum(axis=0)) for figures in models] for chosen in draws])


@pytest.mark.parametrize("rows", [1, 7, 153])
def test_sums_are_those_of_the_rows_drawn(rows, monkeypatch):
    monkeypatch.setattr(bootstrap, "_CHUNK", rows * 9)  # several chunks, the last one smaller
    generator = np.random.default_rng(rows)
    models = [generator.normal(size=(rows, 3)) + 4 for _ in range(2)]

    def score(sums):
        return sums[..., 0] * sums[..., 1] / sums[..., 2]

    expected = naive(score, models, 50, 3)
    found = paired_bootstrap(lambda _, given: RowTotals(given, score), models[0], *models, samples=50, seed=3)
    bounds = np.quantile(expected[:, 0] - expected[:, 1], [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(tuple(bounds), rel=1e-9, abs=1e-12)
    alone = metric_interval(lambda _, given: given[:, 0], models[0], models[0], samples=50, seed=3)
    means = naive(lambda sums: sums[0] / rows, models[:1], 50, 3)
    assert (alone.low, alone.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), rel=1e-12)


@pytest.mark.parametrize("odd", [np.inf, np.nan])
@pytest.mark.parametrize("by_totals", [True, False])
def test_a_row_that_is_no_number_leaves_the_samples_without_it(odd, by_totals):
    values = np.linspace(0, 1, 30)
    values[4] = odd
    ones = np.ones_like(values)

    def score(_, given):
        return RowTotals(np.stack([given, ones], axis=1), lambda sums: sums[..., 0] / sums[..., 1])

    found = metric_interval(score if by_totals else lambda _, given: given, values, values, samples=200)
    means = naive(lambda sums: sums[0] / 30, [values[:, None]], 200, 0)
    defined = means[np.isfinite(means)]
    assert 0 < len(defined) < 200
    assert found.samples == len(defined)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(defined, [0.025, 0.975])))


def test_equal_models_differ_by_nothing_at_all():
    figures = np.random.default_rng(0).normal(size=(501, 3))
    found = paired_bootstrap(lambda _, given: RowTotals(given, lambda s: s.sum(-1)), figures, figures, figures.copy())
    assert (found.difference, found.low, found.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("name", OF_CLASS_ONE)
@pytest.mark.parametrize("common", [0.5, 0.03, 0.0])
def test_metrics_of_class_one_are_ratios_of_sums(name, common):
    generator, rows = np.random.default_rng(1), 40
    truth, given = generator.random((2, rows)) < common
    truth, given = truth.astype(int), (given | (truth & (generator.random(rows) < 0.5))).astype(int)

    def twin(chosen):
        return OF_CLASS_ONE[name](truth[chosen], given[chosen], zero_division=0)

    totals = METRICS[name]().row_totals(truth, given)
    found = METRICS[name]().compute(predictions=given, references=truth)
    assert found == {name: pytest.approx(twin(np.arange(rows)))}
    draws = np.random.default_rng(6).integers(0, rows, size=(60, rows))
    expected = [twin(chosen) for chosen in draws]
    assert totals.score(totals.figures[draws].sum(axis=1)) == pytest.approx(expected)
    interval = metric_interval(METRICS[name]().row_totals, truth, given, samples=60, seed=6)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(expected, [0.025, 0.975])))
    assert interval.samples == 60


@pytest.mark.parametrize("name", OF_CLASS_ONE)
@pytest.mark.parametrize(("right", "answer"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_where_class_one_is_missing(name, right, answer):
    truth, given = np.full(3, right), np.full(3, answer)
    assert OF_CLASS_ONE[name](truth, given, zero_division=0) == float(right == answer == 1)
    assert METRICS[name]().of_rows(truth, given) == {name: float(right == answer == 1)}
