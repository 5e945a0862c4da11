"""Metrics against plain implementations of their definitions, and how they are looked up."""

from __future__ import annotations

import math
from typing import Any

import evaluate
import numpy as np
import pytest
from datasets import Features, Sequence, Value
from scipy import stats

from distil_nlp.errors import DataError, RecipeError, UnresolvedReferenceError
from distil_nlp.evaluation.metrics import METRICS, OfflineMetric, compute_metrics, higher_is_better, load_metric


def value_of(name: str, predictions: object, references: object) -> float:
    result = load_metric(name).compute(predictions=predictions, references=references)
    assert set(result) == {name}
    assert type(result[name]) is float
    return result[name]


def counts(label: int, predictions: np.ndarray, references: np.ndarray) -> tuple[int, int, int]:
    """True positives, false positives and false negatives of one class."""
    pairs = list(zip(predictions.tolist(), references.tolist(), strict=True))
    return (
        sum(p == label and r == label for p, r in pairs),
        sum(p == label and r != label for p, r in pairs),
        sum(p != label and r == label for p, r in pairs),
    )


def naive_f1(label: int, predictions: np.ndarray, references: np.ndarray) -> float:
    right, wrong, missed = counts(label, predictions, references)
    return 2 * right / (2 * right + wrong + missed) if right else 0.0


@pytest.fixture(params=range(5))
def binary(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(request.param)
    return rng.integers(0, 2, 50), rng.integers(0, 2, 50)


def test_two_classes(binary: tuple[np.ndarray, np.ndarray]) -> None:
    predictions, references = binary
    right, wrong, missed = counts(1, predictions, references)
    none = len(predictions) - right - wrong - missed
    product = (right + wrong) * (right + missed) * (none + wrong) * (none + missed)
    expected = {
        "accuracy": (right + none) / 50,
        "precision": right / (right + wrong),
        "recall": right / (right + missed),
        "f1": naive_f1(1, predictions, references),
        "f1_macro": (naive_f1(0, predictions, references) + naive_f1(1, predictions, references)) / 2,
        "matthews_correlation": (right * none - wrong * missed) / math.sqrt(product),
    }
    for name, value in expected.items():
        assert value_of(name, predictions, references) == pytest.approx(value)
    assert compute_metrics(list(expected))(predictions, references) == pytest.approx(expected)


def test_many_classes() -> None:
    rng = np.random.default_rng(0)
    predictions, references = rng.integers(0, 7, 200), rng.integers(0, 7, 200)
    assert value_of("accuracy", predictions, references) == pytest.approx(
        sum(p == r for p, r in zip(predictions, references, strict=True)) / 200
    )
    assert value_of("f1_macro", predictions, references) == pytest.approx(
        sum(naive_f1(label, predictions, references) for label in range(7)) / 7
    )


def test_numbers_against_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        references = rng.normal(size=40).round(1)  # with ties
        predictions = (references + rng.normal(size=40)).round(1)
        assert value_of("pearson", predictions, references) == pytest.approx(
            stats.pearsonr(predictions, references).statistic
        )
        assert value_of("spearman", predictions, references) == pytest.approx(
            stats.spearmanr(predictions, references).statistic
        )
        assert value_of("mse", predictions, references) == pytest.approx(
            sum((p - r) ** 2 for p, r in zip(predictions, references, strict=True)) / 40
        )


def test_where_a_metric_is_not_defined() -> None:
    for name in ("f1", "precision", "recall", "matthews_correlation"):
        assert value_of(name, [0, 0, 0], [0, 0, 0]) == 0.0
    for name in ("pearson", "spearman"):
        assert math.isnan(value_of(name, [1.0, 1.0], [1.0, 2.0]))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["pearson", "spearman", "mse"])
def test_a_prediction_that_is_no_number_makes_none(name: str) -> None:
    for predictions in ([math.nan, 1.0, 2.0], [math.nan] * 3):
        assert math.isnan(value_of(name, predictions, [1.0, 2.0, 4.0]))


def test_a_metric_may_be_a_score_of_all_rows() -> None:
    class Same(OfflineMetric):
        key, takes = "same", "text"

        def score(self, references: Any, predictions: Any) -> Any:
            return (references == predictions).mean()

    assert Same().compute(predictions=["a", "b"], references=["a", "c"]) == {"same": 0.5}
    assert Same().of_rows(["a", "b"], ["a", "b"]) == {"same": 1.0}


@pytest.mark.parametrize("name", ["accuracy", "f1_macro", "spearman", "rouge_l", "squad_f1", "entity_f1"])
def test_there_is_no_metric_of_no_rows(name: str) -> None:
    with pytest.raises(DataError, match=f"metric '{name}'"):
        load_metric(name).compute(predictions=[], references=[])


def test_correlations_refuse_numbers_that_never_vary() -> None:
    for name in ("pearson", "spearman"):
        with pytest.raises(RecipeError, match=r"(?s)It is 2\.5 in all 3 rows.*Use mse"):
            compute_metrics(["mse", name], takes="number", references=lambda: np.full(3, 2.5))
        compute_metrics(["mse", name], takes="number", references=lambda: np.array([2.5, 2.5, 2.0]))
    compute_metrics(["mse"], takes="number", references=lambda: np.full(3, 2.5))


def test_two_class_metrics_refuse_more() -> None:
    for name in ("f1", "precision", "recall"):
        with pytest.raises(RecipeError, match="f1_macro"):
            compute_metrics(["accuracy", name], label_names=["a", "b", "c"])
        with pytest.raises(RecipeError, match="class ids such as 2"):
            value_of(name, [0, 1], [1, 2])
    compute_metrics(["accuracy", "f1"], label_names=["a", "b"])


def test_they_are_metrics_of_evaluate_and_stay_in_memory() -> None:
    combined = evaluate.combine([METRICS["accuracy"](), METRICS["f1"]()])
    assert combined.compute(predictions=[0, 1], references=[1, 1]) == pytest.approx({"accuracy": 0.5, "f1": 2 / 3})
    metric = load_metric("accuracy")
    assert isinstance(metric, evaluate.Metric)
    metric.add_batch(predictions=[0, 1], references=[0, 1])
    metric.add_batch(predictions=[0, 1], references=[1, 1])
    assert metric.compute() == {"accuracy": 0.75}
    assert metric.keep_in_memory


def test_every_registered_metric_returns_its_own_name() -> None:
    rows = {
        "class": [0, 1, 1],
        "number": [0.0, 1.0, 1.5],
        "labels": [[0, 1], [1, 1], [1, 0]],
        "tags": [["B-A", "O"], ["O"], ["B-A"]],
        "answer": ["a cat", "", "two dogs"],
    }
    references = {**rows, "answer": [["cat", "one cat"], [], ["dogs"]]}
    for name in METRICS:
        if (kind := METRICS[name].takes) in rows:  # others are in files of their own
            value_of(name, rows[kind], references[kind])
    assert not higher_is_better("mse")
    assert higher_is_better("squad_f1")
    assert not higher_is_better("wer")
    assert higher_is_better("rouge")


def test_a_name_that_cannot_be_had_offline() -> None:
    with pytest.raises(UnresolvedReferenceError, match=r"(?s)cannot be loaded.*Did you mean 'f1_macro'"):
        load_metric("f1_macr")


def test_code_of_strangers_is_not_run() -> None:
    with pytest.raises(RecipeError, match="would run code"):
        load_metric("somebody/accuracy")


def test_metrics_of_the_hub_are_named_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rouge(METRICS["accuracy"]):  # type: ignore[misc]
        def _compute(self, predictions: object, references: object) -> dict[str, float]:
            return {"one": 0.25, "two": 0.5}

    monkeypatch.setattr(evaluate, "load", lambda name: Rouge())
    assert compute_metrics(["accuracy", "rouge"])([1], [1]) == {
        "accuracy": 1.0,
        "rouge_one": 0.25,
        "rouge_two": 0.5,
    }
    with pytest.raises(RecipeError, match=r"(?s)headline.*rouge_one, rouge_two.*Put another first"):
        compute_metrics(["rouge", "accuracy"])


class Hubs(evaluate.Metric):
    """A metric of the Hub: its own features, its own result."""

    takes: Any = Value("int32")
    result: Any = 0.5

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": self.takes, "references": self.takes})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
        return {"score": self.result}


SUITABLE = [
    ("class", Value("int32")),
    ("number", Value("float32")),
    ("labels", Sequence(Value("int32"))),
    ("vector", Sequence(Value("float32"))),
    ("tags", Sequence(Value("string"))),
    ("text", Value("string")),
]


@pytest.mark.parametrize(("takes", "feature"), SUITABLE)
def test_metrics_of_the_hub_are_tried_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, takes: str, feature: Any
) -> None:
    made = type("Made", (Hubs,), {"takes": feature})
    monkeypatch.setattr(evaluate, "load", lambda name: made())
    names = ["B-X", "I-X", "O"]
    compute = compute_metrics(["hubs"], takes=takes, label_names=names)
    rows = {"class": [2, 1, 0], "number": [0.5] * 3, "labels": [[0, 1, 0]] * 3, "vector": [[0.5]] * 3}
    rows |= {"tags": [["O", "I-X"]] * 3, "text": ["a", "b", "c"]}
    assert compute(rows[takes], rows[takes]) == {"hubs": 0.5}  # nothing of the trial is left in it
    odd = type("Odd", (Hubs,), {"takes": Sequence(Sequence(Value("int32")))})
    monkeypatch.setattr(evaluate, "load", lambda name: odd())
    with pytest.raises(RecipeError, match=f"(?s)'hubs' of the Hub does not suit.*'{takes}'.*Use "):
        compute_metrics(["hubs"], takes=takes, label_names=names)


def test_a_metric_of_the_hub_without_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = type("Listed", (Hubs,), {"result": [0.5, 0.5]})
    monkeypatch.setattr(evaluate, "load", lambda name: listed())
    with pytest.raises(RecipeError, match="fails with TypeError"):
        compute_metrics(["accuracy", "hubs"])
