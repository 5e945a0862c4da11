"""Metrics of written texts, against tables filled in by hand, slow twins, and the packages that published them."""

from __future__ import annotations

import random
import sys
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from distil_nlp.errors import MissingExtraError, RecipeError
from distil_nlp.evaluation.bootstrap import metric_interval
from distil_nlp.evaluation.metrics import METRICS, compute_metrics
from distil_nlp.evaluation.metrics.texts import lcs_length, words

ROUGE = ("rouge_1", "rouge_2", "rouge_l")


def texts(seed: int, count: int = 40) -> tuple[list[str], list[str]]:
    """References, and texts that share some of their words; some are empty."""
    dice = random.Random(seed)
    known = ["The", "cat", "sat", "on", "the", "mat", "and", "a", "dog,", "ran", "away.", "It's", "1,234", "Käfer"]
    draw = lambda: " ".join(dice.choices(known, k=dice.randint(0, 12)))  # noqa: E731
    return [draw() or "mat" for _ in range(count)], [draw() for _ in range(count)]


def lcs_by_definition(one: list[str], other: list[str]) -> int:
    @cache
    def longest(i: int, j: int) -> int:
        if i == len(one) or j == len(other):
            return 0
        if one[i] == other[j]:
            return 1 + longest(i + 1, j + 1)
        return max(longest(i + 1, j), longest(i, j + 1))

    return longest(0, 0)


def test_the_longest_common_subsequence() -> None:
    dice = random.Random(0)
    for _ in range(200):
        one, other = (dice.choices("abcde", k=dice.randint(0, 15)) for _ in range(2))
        assert lcs_length(one, other) == lcs_by_definition(one, other)
    long = dice.choices("abc", k=300)
    assert lcs_length(long, long) == 300


def test_lins_own_example() -> None:
    """Lin (2004), section 3.1: as many pairs of words are right in both texts, but not as many in order."""
    reference = "police killed the gunman"
    compute = compute_metrics(["rouge_l", "rouge_2"], takes="text")
    first = compute(["police kill the gunman"], [reference])
    assert first["rouge_l"] == pytest.approx(0.75)
    assert first["rouge_2"] == pytest.approx(1 / 3)  # "the gunman" alone
    second = compute(["the gunman kill police"], [reference])
    assert second["rouge_l"] == pytest.approx(0.5)
    assert second["rouge_2"] == pytest.approx(1 / 3)


def test_rouge_by_a_slow_twin() -> None:
    references, given = texts(1)
    found = compute_metrics(ROUGE, takes="text")(given, references)
    expected = {name: [] for name in ROUGE}
    for reference, text in zip(references, given, strict=True):
        a, b = words(reference), words(text)
        for name, one, other in (
            ("rouge_1", a, b),
            ("rouge_2", list(pairwise(a)), list(pairwise(b))),
        ):
            left, shared = list(other), 0
            for each in one:
                if each in left:
                    left.remove(each)
                    shared += 1
            expected[name].append(2 * shared / (len(one) + len(other)) if shared else 0.0)
        both = len(a) + len(b)
        expected["rouge_l"].append(2 * lcs_by_definition(a, b) / both if both else 0.0)
    for name, values in expected.items():
        assert 0 < found[name] == pytest.approx(np.mean(values))


@pytest.mark.parametrize(
    ("reference", "given", "scores"),
    [
        ("The cat sat on the mat, and the dog ran.", "A dog sat on the mat; the cat ran away!", (0.8, 0.444444, 0.6)),
        ("It's 1,234 re-runs", "its 1 234 re runs", (0.727273, 0.666667, 0.727273)),
        ("one two three four", "four three two one", (1.0, 0.0, 0.25)),
        ("x", "", (0.0, 0.0, 0.0)),
    ],
)
def test_rouge_is_googles(reference: str, given: str, scores: tuple[float, ...]) -> None:
    """The figures are those of rouge_score 0.1.2, without its stemmer."""
    found = compute_metrics(ROUGE, takes="text")([given], [reference])
    assert tuple(found.values()) == pytest.approx(scores, abs=1e-6)


def test_words_and_white_space() -> None:
    assert words("It's 1,234 Käfer_s — 北京!") == ["it", "s", "1", "234", "käfer", "s", "北京"]
    score = compute_metrics(["sequence_accuracy"], takes="text")
    assert score(["a  b", "A b", "", "x"], ["a b ", "a b", "c", "x"]) == {"sequence_accuracy": 0.5}


@pytest.mark.parametrize(
    ("reference", "given", "right"),
    [("का", "की", 0.0), ("नदी का पानी", "नदी की पानी", 2 / 3), ("cafe\u0301 noir", "cafe noir", 0.5)],
)
def test_marks_are_parts_of_words(reference: str, given: str, right: float) -> None:
    compute = compute_metrics(["rouge_1", "rouge_l"], takes="text")
    assert compute([given], [reference]) == pytest.approx({"rouge_1": right, "rouge_l": right})
    assert compute([reference], [reference]) == {"rouge_1": 1.0, "rouge_l": 1.0}


def test_bleu_is_sacrebleus() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    for seed in range(5):
        references, given = texts(seed)
        given = [references[row] if row % 3 else text for row, text in enumerate(given)]
        found = compute_metrics(["bleu"], takes="text")(given, references)["bleu"]
        assert 0 < found == pytest.approx(sacrebleu.corpus_bleu(given, [references]).score / 100)


@pytest.mark.parametrize("name", [*ROUGE, "sequence_accuracy", "bleu"])
def test_totals_of_rows_make_the_metric(name: str) -> None:
    """On any choice of rows, by which intervals are drawn quickly."""
    if name == "bleu":
        pytest.importorskip("sacrebleu")
    references, given = texts(3)
    metric, compute = METRICS[name](), compute_metrics([name], takes="text")
    totals = metric.row_totals(references, given)
    chosen = np.random.default_rng(0).integers(0, len(given), (3, 25))
    drawn = totals.score(totals.figures[chosen].sum(axis=1))
    for rows, value in zip(chosen, drawn, strict=True):
        again = compute([given[row] for row in rows], [references[row] for row in rows])
        assert value == pytest.approx(again[name])
    interval = metric_interval(metric.row_totals, references, given, samples=50)
    assert interval.low <= interval.value <= interval.high
    assert metric.higher_is_better


def test_bleu_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(MissingExtraError, match=r"distil_nlp\[bleu\]"):
        compute_metrics(["bleu"], takes="text")  # before anything is scored


def test_they_are_for_texts() -> None:
    with pytest.raises(RecipeError, match="rouge_l"):
        compute_metrics(["accuracy"], takes="text")
    with pytest.raises(RecipeError, match="'text'"):
        compute_metrics(["rouge_l"], takes="class")
