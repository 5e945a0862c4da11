"""Metrics of tags against seqeval's own and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from seqeval import metrics as seqeval_metrics

from distil_nlp.errors import RecipeError
from distil_nlp.evaluation.bootstrap import metric_interval, paired_bootstrap
from distil_nlp.evaluation.metrics import METRICS, compute_metrics

NAMES = ("entity_f1", "entity_precision", "entity_recall", "tag_accuracy")
TWINS = {
    "entity_f1": seqeval_metrics.f1_score,
    "entity_precision": seqeval_metrics.precision_score,
    "entity_recall": seqeval_metrics.recall_score,
    "tag_accuracy": seqeval_metrics.accuracy_score,
}
TAGS = ["O", "O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def sentences(seed: int, count: int = 60, tags: list[str] = TAGS) -> list[list[str]]:
    generator = np.random.default_rng(seed)
    lengths = np.random.default_rng(99).integers(1, 12, count)  # the same for every seed
    return [[tags[i] for i in generator.integers(0, len(tags), length)] for length in lengths]


def noisy(truth: list[list[str]], seed: int, share: float = 0.3) -> list[list[str]]:
    generator = np.random.default_rng(seed)
    return [[TAGS[generator.integers(7)] if generator.random() < share else tag for tag in row] for row in truth]


def entities(tags: list[str]) -> set[tuple[str, int, int]]:
    """Spans of IOB tags, word by word: ``B`` begins one, and so does ``I`` after another type or none."""
    found, start, kind = set(), 0, None
    for place, tag in enumerate([*tags, "O"]):
        mark, _, now = tag.partition("-")
        if kind is not None and (mark != "I" or now != kind):
            found.add((kind, start, place - 1))
            kind = None
        if mark != "O" and kind is None:
            start, kind = place, now
    return found


def naive(truth: list[list[str]], given: list[list[str]]) -> dict[str, float]:
    right = found = true = words = same = 0
    for expected, got in zip(truth, given, strict=True):
        ours, theirs = entities(got), entities(expected)
        right, found, true = right + len(ours & theirs), found + len(ours), true + len(theirs)
        same += sum(a == b for a, b in zip(expected, got, strict=True))
        words += len(expected)
    precision, recall = right / found if found else 0.0, right / true if true else 0.0
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return dict(zip(NAMES, (f1, precision, recall, same / words), strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_against_seqeval_and_a_loop(seed: int) -> None:
    truth = sentences(seed)
    given = noisy(truth, seed + 100)
    found = compute_metrics(NAMES, takes="tags")(given, truth)  # type: ignore[arg-type]
    assert found == pytest.approx(naive(truth, given))
    assert found == pytest.approx({name: twin(truth, given) for name, twin in TWINS.items()})
    assert 0 < found["entity_f1"] < 1


@pytest.mark.filterwarnings("ignore")  # seqeval warns where a figure is not defined
@pytest.mark.parametrize(
    ("truth", "given", "expected"),
    [
        ([["B-A", "O"]], [["O", "O"]], (0, 0, 0, 0.5)),  # a model without any entity
        ([["O", "O"]], [["B-A", "O"]], (0, 0, 0, 0.5)),  # and data without any
        ([["O"], ["O"]], [["O"], ["O"]], (0, 0, 0, 1)),
        ([["B-A", "I-A"]], [["B-A", "I-A"]], (1, 1, 1, 1)),
        ([["B-A", "I-A", "O"]], [["B-A", "O", "O"]], (0, 0, 0, 2 / 3)),  # a part of it is no entity
        ([["B-A", "B-A"]], [["B-A", "I-A"]], (0, 0, 0, 0.5)),  # one or two
        ([["B-A"]], [["B-B"]], (0, 0, 0, 0)),
    ],
)
def test_known_values(truth: list[list[str]], given: list[list[str]], expected: tuple[float, ...]) -> None:
    found = compute_metrics(NAMES, takes="tags")(given, truth)  # type: ignore[arg-type]
    assert found == pytest.approx(dict(zip(NAMES, expected, strict=True)))
    assert found == pytest.approx({name: float(twin(truth, given)) for name, twin in TWINS.items()})


@pytest.mark.parametrize("name", NAMES)
def test_intervals_are_those_of_the_loop(name: str) -> None:
    truth = sentences(7, count=30)
    one, other = noisy(truth, 1, 0.2), noisy(truth, 2, 0.5)
    score = METRICS[name]().row_totals
    fast = paired_bootstrap(score, truth, one, other, samples=40, seed=5)
    alone = metric_interval(score, truth, one, samples=40, seed=5)
    differences, scores = [], []
    for chosen in np.random.default_rng(5).integers(0, 30, size=(40, 30)):
        rows = [[values[i] for i in chosen] for values in (truth, one, other)]
        scores.append(naive(rows[0], rows[1])[name])
        differences.append(scores[-1] - naive(rows[0], rows[2])[name])
    assert (fast.low, fast.high) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])))
    assert (alone.low, alone.high) == pytest.approx(tuple(np.quantile(scores, [0.025, 0.975])))
    assert fast.difference == pytest.approx(naive(truth, one)[name] - naive(truth, other)[name])


def test_tags_that_are_of_no_entity_are_refused_before_anything_runs() -> None:
    for name in NAMES[:3]:
        with pytest.raises(RecipeError, match=r"(?s)ADJ, NOUN.*Use tag_accuracy"):
            compute_metrics([name], takes="tags", label_names=["NOUN", "ADJ"])
    compute_metrics(["tag_accuracy"], takes="tags", label_names=["NOUN", "ADJ"])
    compute_metrics(NAMES, takes="tags", label_names=["O", "I-PER"])
    compute_metrics(NAMES, takes="tags", label_names=["B-PER", "I-PER", "E-PER", "S-PER", "O"])


@pytest.mark.parametrize("odd", ["U-PER", "L-PER", "PER", "X", "o", "B-"])
def test_tags_of_another_scheme_are_refused_before_anything_runs(odd: str) -> None:
    """BILOU, say: read as IOB, two entities of one word each would be one."""
    for name in NAMES[:3]:
        with pytest.raises(RecipeError, match=f"(?s)There are others: {odd}.*tag_accuracy"):
            compute_metrics([name], takes="tags", label_names=["B-PER", "I-PER", "O", odd])


def test_metrics_of_other_predictions_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"(?s)kind 'class'; this task's are 'tags'.*Use entity_f1"):
        compute_metrics(["accuracy"], takes="tags")
