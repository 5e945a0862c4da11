"""Perplexity and its like: values by hand, intervals, and what a report says of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distil_nlp.errors import RecipeError
from distil_nlp.evaluation.bootstrap import metric_interval
from distil_nlp.evaluation.ledger import Ledger
from distil_nlp.evaluation.ledger_parts import Row, WritingRow
from distil_nlp.evaluation.metrics import METRICS, compute_metrics, higher_is_better, in_points, load_metric

COSTS = [[0.5, 1.5], [], [2.0, 0.25, 0.75]]  # of each token, by row
RIGHT = [[1, 0], [], [1, 1, 0]]
PREDICTIONS = np.array([[sum(costs), sum(right)] for costs, right in zip(COSTS, RIGHT, strict=True)], dtype=float)
REFERENCES = np.array([len(costs) for costs in COSTS])


def test_perplexity_is_of_tokens_and_not_of_rows() -> None:
    expected = math.exp(np.mean([cost for costs in COSTS for cost in costs]))
    scores = compute_metrics(["perplexity", "masked_accuracy"], takes="likelihood")(PREDICTIONS, REFERENCES)
    assert scores == pytest.approx({"perplexity": expected, "masked_accuracy": 3 / 5})
    assert load_metric("next_token_accuracy").compute(predictions=PREDICTIONS, references=REFERENCES) == {
        "next_token_accuracy": pytest.approx(3 / 5)
    }
    assert not higher_is_better("perplexity")
    assert not in_points("perplexity")
    assert in_points("masked_accuracy")


def test_without_tokens_there_is_no_perplexity() -> None:
    score = METRICS["perplexity"]().row_totals(REFERENCES[1:2], PREDICTIONS[1:2])
    assert np.isnan(score.score(score.figures.sum(axis=0)))


def test_rows_without_tokens_are_refused_before_anything_is_scored() -> None:
    for name in ("perplexity", "masked_accuracy", "next_token_accuracy"):
        with pytest.raises(RecipeError, match=f"(?s)'{name}' is about tokens.*The 3 rows"):
            compute_metrics([name], takes="likelihood", references=lambda: np.zeros(3, dtype=np.int64))
        compute_metrics([name], takes="likelihood", references=lambda: np.array([0, 2]))


def test_its_interval_resamples_rows_with_all_their_tokens() -> None:
    dice = np.random.default_rng(3)
    tokens = dice.integers(1, 30, size=40)
    costs = np.stack([tokens * dice.uniform(1, 3, size=40), np.zeros(40)], axis=1)

    def score(references, predictions):
        return METRICS["perplexity"]().row_totals(references, predictions)

    found = metric_interval(score, tokens, costs, samples=500, seed=1)
    assert found.value == pytest.approx(math.exp(costs[:, 0].sum() / tokens.sum()))
    drawn = np.random.default_rng(1).integers(0, 40, size=(500, 40))
    by_hand = [math.exp(costs[rows, 0].sum() / tokens[rows].sum()) for rows in drawn]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(by_hand, [0.025, 0.975])))


def test_where_lower_is_better_retention_is_the_other_way_round() -> None:
    speeds = [
        WritingRow(
            tokens_per_second=speed, batch_size=size, prompt_tokens=8, new_tokens=4, threads=threads, runtime="pytorch"
        )
        for speed, size, threads in ((40.0, 4, 1), (30.0, 1, 2), (20.0, 1, 1))
    ]
    ledger = Ledger(
        name="demo",
        task="text-generation",
        metric="perplexity",
        lower_is_better=True,
        rows=[
            Row(name="teacher", kind="teacher", metrics={"perplexity": 20.0}, size_mb=90),
            Row(name="student", kind="student", metrics={"perplexity": 25.0}, size_mb=45, writing=speeds),
            Row(name="onnx_int8", kind="export", metrics={"perplexity": 40.0}, size_mb=12),
        ],
    ).complete()
    assert ledger.row("student").retention == pytest.approx(0.8)
    assert ledger.row("student").tokens_per_second == 20.0
    assert ledger.row("teacher").tokens_per_second is None
    assert ledger.verdict[:2] == [
        "The teacher's perplexity is 20.000; the student's is 25.000, a retention of 80.0 % as lower is better; "
        "it is 2.0 times smaller than the teacher.",
        "The student's smallest export, ONNX int8, has perplexity 40.000, a retention of 50.0 %; "
        "it is 7.5 times smaller than the teacher.",
    ]
