"""Exact match and F1 of answers against a plain implementation of SQuAD's definition, and known values."""

from __future__ import annotations

import random
import string

import numpy as np
import pytest

from distil_nlp.errors import RecipeError
from distil_nlp.evaluation.bootstrap import RowTotals, metric_interval
from distil_nlp.evaluation.metrics import METRICS, compute_metrics, load_metric


def words(text: str) -> list[str]:
    """Lower case, without punctuation, then without articles that stand alone."""
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    found, word = [], ""
    for character in kept + " ":  # an article ends where a letter, digit or underscore does
        if character.isalnum() or character == "_":
            word += character
        else:
            found += [word if word not in ("a", "an", "the") else " ", character]
            word = ""
    return "".join(found).split()


def naive(prediction: str, answers: list[str]) -> tuple[float, float]:
    exact, best = 0.0, 0.0
    for answer in [answer for answer in answers if words(answer)] or [""]:
        right, given = words(answer), words(prediction)
        exact = max(exact, float(right == given))
        left, same = list(right), 0
        for word in given:
            if word in left:
                left.remove(word)
                same += 1
        if not right or not given:
            best = max(best, float(right == given))
        elif same:
            precision, recall = same / len(given), same / len(right)
            best = max(best, 2 * precision * recall / (precision + recall))
    return exact, best


def score(predictions: list[str], references: list[list[str]]) -> tuple[float, float]:
    found = compute_metrics(("exact_match", "squad_f1"), takes="answer")(predictions, references)  # type: ignore[arg-type]
    return found["exact_match"], found["squad_f1"]


VOCABULARY = [
    "The",
    "a",
    "an",
    "cat",
    "Cat's",
    "U.S.",
    "—",
    "``",
    "1,000",
    "dog",
    "thé",
    "A.",
    "the-end",
    "\xa0x",
    "a—b",
    "of",
]


def test_against_the_definition() -> None:
    dice = random.Random(0)

    def text() -> str:
        return " ".join(dice.choices(VOCABULARY, k=dice.randint(0, 4)))

    predictions = [text() for _ in range(600)]
    references = [[text() for _ in range(dice.randint(0, 3))] for _ in range(600)]
    expected = np.mean([naive(*row) for row in zip(predictions, references, strict=True)], axis=0)
    assert score(predictions, references) == pytest.approx(tuple(expected))
    assert 0.1 < expected[0] < expected[1] < 0.9


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("1976", ["1976"], 1, 1),  # the example of evaluate's squad metric
        ("Beyonce", ["Beyoncé and Bruno Mars", "Beyonce"], 1, 1),
        ("climate change", ["Beyoncé and Bruno Mars"], 0, 0),
        ("the Eiffel Tower!", ["Eiffel  tower"], 1, 1),
        ("in the Eiffel Tower", ["Eiffel tower"], 0, 2 * (2 / 3) / (5 / 3)),
        ("", [], 1, 1),  # no answer, rightly
        ("Paris", [], 0, 0),
        ("", ["Paris"], 0, 0),
        ("", ["the", "Paris"], 0, 0),  # an answer without words is none while there is another
        ("cat cat dog", ["cat dog dog"], 0, 2 / 3),
    ],
)
def test_known_values(prediction: str, answers: list[str], exact: float, f1: float) -> None:
    assert score([prediction], [answers]) == pytest.approx((exact, f1))


@pytest.mark.parametrize("name", ["exact_match", "squad_f1"])
def test_row_totals_make_the_metric(name: str) -> None:
    dice = random.Random(1)
    predictions = [" ".join(dice.choices("abcd", k=2)) for _ in range(40)]
    references = [[" ".join(dice.choices("abcd", k=dice.randint(1, 3)))] for _ in range(40)]
    metric = METRICS[name]()
    whole = metric.compute(predictions=predictions, references=references)[name]
    totals = metric.row_totals(references, predictions)
    assert isinstance(totals, RowTotals)
    assert totals.score(totals.figures.sum(axis=0)) == pytest.approx(whole)
    found = metric_interval(metric.row_totals, references, predictions, samples=50, seed=3)
    generator, slow = np.random.default_rng(3), []
    for chosen in generator.integers(0, 40, size=(50, 40)):
        rows = [[values[i] for i in chosen] for values in (predictions, references)]
        slow.append(load_metric(name).compute(predictions=rows[0], references=rows[1])[name])
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))


def test_they_are_for_answers() -> None:
    with pytest.raises(RecipeError, match=r"Use exact_match, squad_f1"):
        compute_metrics(["accuracy"], takes="answer")
