from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from distil_nlp.errors import DataError
from distil_nlp.evaluation import bootstrap
from distil_nlp.evaluation.bootstrap import Interval, correct_rows, metric_interval, paired_bootstrap


def predictions(rows: int, accuracy: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 2, rows)
    return truth, np.where(generator.random(rows) < accuracy, truth, 1 - truth)


def naive(score, truth, a, b, samples, seed):
    """The definition, one resampled test set after the other."""
    generator, rows, found = np.random.default_rng(seed), len(truth), []
    for _ in range(samples):
        chosen = generator.integers(0, rows, size=rows)
        found.append(score(truth[chosen], a[chosen]) - score(truth[chosen], b[chosen]))
    return np.quantile(found, [0.025, 0.975])


def accuracy(truth, predicted):
    return float(np.mean(np.asarray(truth) == np.asarray(predicted)))


def test_per_row_scores_equal_the_naive_loop(monkeypatch):
    truth, a = predictions(151, 0.9, 1)
    _, b = predictions(151, 0.6, 2)
    monkeypatch.setattr(bootstrap, "_CHUNK", 151 * 7)  # uneven chunks, many of them
    fast = paired_bootstrap(correct_rows, truth, a, b, samples=300, seed=5)
    assert (fast.low, fast.high) == pytest.approx(naive(accuracy, truth, a, b, 300, 5), abs=1e-12)
    assert fast.difference == pytest.approx(accuracy(truth, a) - accuracy(truth, b))
    assert (fast.samples, fast.rows) == (300, 151)


def test_whole_set_scores_equal_the_naive_loop():
    truth, a = predictions(80, 0.9, 1)
    b = predictions(80, 0.7, 3)[1]
    found = paired_bootstrap(f1_score, truth, a, b, samples=60, seed=2)
    assert (found.low, found.high) == pytest.approx(naive(f1_score, truth, a, b, 60, 2), abs=1e-12)


def test_both_paths_agree_and_lists_are_rows_too():
    truth, a = predictions(60, 0.8, 1)
    b = predictions(60, 0.7, 4)[1]
    by_row = paired_bootstrap(correct_rows, truth, a, b, samples=200)
    texts = [[str(value) for value in values] for values in (truth, a, b)]
    whole = paired_bootstrap(accuracy, *texts, samples=200)
    assert (by_row.low, by_row.high) == pytest.approx((whole.low, whole.high))


def test_whole_set_scores_draw_fewer_samples_and_say_so():
    truth, a = predictions(30, 0.8, 1)
    assert metric_interval(accuracy, truth, a, samples=10_000).samples == bootstrap.WHOLE_SET_SAMPLES
    assert metric_interval(correct_rows, truth, a, samples=10_000).samples == 10_000


def test_interval_is_that_of_the_normal_approximation_on_many_rows():
    truth = np.zeros(4000, dtype=int)
    predicted = np.where(np.arange(4000) < 3200, 0, 1)
    found = metric_interval(correct_rows, truth, predicted)
    half = 1.96 * (0.8 * 0.2 / 4000) ** 0.5
    assert found.value == pytest.approx(0.8)
    assert (found.low, found.high) == pytest.approx((0.8 - half, 0.8 + half), abs=6e-4)


def test_pairing_sees_what_separate_intervals_cannot():
    truth = np.zeros(400, dtype=int)
    worse = (np.arange(400) % 4 == 0).astype(int)
    better = worse.copy()
    better[np.flatnonzero(worse)[:12]] = 0  # 3 points better, and never worse
    paired = paired_bootstrap(correct_rows, truth, better, worse)
    alone = [metric_interval(correct_rows, truth, p) for p in (better, worse)]
    assert paired.beyond_noise
    assert paired.low > 0
    assert alone[0].low < alone[1].high


def test_identical_models_are_within_noise():
    truth, a = predictions(50, 0.8, 1)
    found = paired_bootstrap(correct_rows, truth, a, a)
    assert (found.difference, found.low, found.high, found.beyond_noise) == (0.0, 0.0, 0.0, False)
    assert "scores the same as its control" in found.in_words()


def test_few_rows_never_count_as_beyond_noise():
    found = paired_bootstrap(correct_rows, [1, 1, 1], [1, 1, 1], [0, 0, 0])
    assert found.low == 1.0
    assert not found.beyond_noise
    assert "3 test rows are too few" in found.in_words()


def interval(difference: float, low: float, high: float) -> Interval:
    return Interval(difference, low, high, confidence=0.95, samples=10_000, rows=1000)


def test_words():
    assert interval(-0.004, -0.019, 0.010).in_words() == (
        "The student is 0.4 points below its control; the 95 % interval [-1.9, +1.0] includes zero, "
        "so this is within noise."
    )
    assert interval(0.021, 0.0003, 0.04).in_words(baseline="X") == (
        "The student is 2.10 points above X; the 95 % interval [+0.03, +4.00] excludes zero, so this is beyond noise."
    )
    assert "0.250 above" in interval(0.25, 0.1, 0.4).in_words(points=False)


def test_a_metric_that_is_undefined_on_some_samples_rests_on_the_others():
    truth = np.array([0] * 24 + [1])

    def recall_of_ones(references, predicted):
        references = np.asarray(references)
        return float(np.mean(np.asarray(predicted)[references == 1])) if references.any() else float("nan")

    found = metric_interval(recall_of_ones, truth, np.ones(25), samples=200)
    assert found.value == 1.0
    assert 80 < found.samples < 200
    with pytest.raises(DataError, match="not a number"):
        metric_interval(lambda *_: float("nan"), truth, truth, samples=5)


@pytest.mark.parametrize("lengths", [(0, 0, 0), (3, 3, 2), (3, 2, 2)])
def test_rows_that_do_not_match_are_refused(lengths):
    with pytest.raises(DataError, match="rows"):
        paired_bootstrap(correct_rows, *([0] * length for length in lengths))


def test_a_score_of_the_wrong_shape_is_refused():
    with pytest.raises(DataError, match="shape"):
        metric_interval(lambda *_: np.zeros(4), [0] * 5, [0] * 5)
