"""The library's own metrics take rows as they are, with the values that ``compute`` of ``evaluate`` has."""

from __future__ import annotations

from typing import Any

import evaluate
import numpy as np
import pytest

from distil_nlp.errors import DataError, RecipeError
from distil_nlp.evaluation.metrics import METRICS, compute_metrics

WORDS = ["the", "film", "was", "good", "bad", "2"]
TAGS = ["O", "B-PER", "I-PER", "B-LOC"]


def text(generator: np.random.Generator) -> str:
    return " ".join(generator.choice(WORDS, generator.integers(1, 6)))


def pairs(takes: str, seed: int) -> tuple[Any, Any]:
    """References and predictions of 30 rows, as tasks give them."""
    generator, rows = np.random.default_rng(seed), 30
    if takes == "likelihood":
        return generator.integers(1, 9, rows), generator.random((rows, 2))
    if takes == "answer":
        return [[text(generator), text(generator)] for _ in range(rows)], [text(generator) for _ in range(rows)]
    if takes == "tags":
        lengths = generator.integers(1, 7, rows)
        true, given = ([generator.choice(TAGS, length).tolist() for length in lengths] for _ in range(2))
        return true, given
    made = {
        "class": lambda: generator.integers(0, 2, rows),
        "number": lambda: generator.normal(size=rows),
        "labels": lambda: generator.integers(0, 2, (rows, 4)),
        "vector": lambda: generator.normal(size=(rows, 5)).astype(np.float32),
        "text": lambda: [text(generator) for _ in range(rows)],
    }[takes]
    return made(), made()


def refuse(metric: evaluate.EvaluationModule) -> None:
    raise AssertionError(f"{metric.name} copies its rows.")


@pytest.mark.parametrize("name", list(METRICS))
def test_values_are_those_of_evaluate_without_its_copies(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    takes = METRICS[name].takes
    given = [pairs(takes, seed) for seed in range(3)]
    if takes in ("class", "number"):  # as transformers gives labels while it evaluates
        given += [(references.astype(np.float32), predictions.astype(np.float32)) for references, predictions in given]
    if takes == "vector":
        given += [(references / np.float64(3), predictions.tolist()) for references, predictions in given]
    expected = [METRICS[name]().compute(predictions=p, references=r)[name] for r, p in given]
    monkeypatch.setattr(evaluate.EvaluationModule, "_init_writer", refuse)  # which copies rows to Arrow
    compute = compute_metrics([name], takes=takes)
    assert [compute(p, r)[name] for r, p in given] == expected


@pytest.mark.parametrize("name", ["accuracy", "mse", "f1_micro", "cosine_to_teacher", "perplexity", "rouge_l"])
def test_rows_that_do_not_match_are_refused(name: str) -> None:
    takes = METRICS[name].takes
    references, predictions = pairs(takes, 0)
    compute = compute_metrics([name], takes=takes)
    for right, given in ((references, predictions[:-1]), (references[:1], predictions), ([], [])):
        with pytest.raises(DataError, match=f"(?s)metric '{name}'.*{len(right)}, {len(given)} rows"):
            compute(given, right)


def test_more_than_two_classes_are_refused_as_before() -> None:
    with pytest.raises(RecipeError, match="class ids such as 2"):
        compute_metrics(["f1"])([0, 1], [1, 2])


def test_metrics_of_others_get_what_evaluate_makes_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Others(evaluate.Metric):
        _info = METRICS["accuracy"]._info
        takes = "class"

        def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
            seen.append(type(predictions))
            return {"others": 0.25}

    monkeypatch.setattr(evaluate, "load", lambda name: Others())
    assert compute_metrics(["others"])(np.array([0, 1]), np.array([1, 1])) == {"others": 0.25}
    assert set(seen) == {list}
