"""Label columns of every kind, and the rules that cut them into classes."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features

from distil_nlp.data.classes import parse_classes, parse_span
from distil_nlp.data.labels import NO_CLASS, NO_LABEL, encode_labels
from distil_nlp.errors import DataError, RecipeError


def encode(values: list[Any], **options: Any) -> tuple[list[str], list[int]]:
    labels = encode_labels({"train": Dataset.from_dict({"y": values})}, "y", **options)
    return labels.names, labels.ids["train"]


@pytest.mark.parametrize(
    ("values", "names", "ids"),
    [
        (["pos", "neg", "pos"], ["neg", "pos"], [1, 0, 1]),
        (["b", " a", None, ""], ["a", "b"], [1, 0, NO_LABEL, NO_LABEL]),
        ([10, 9, 10], ["9", "10"], [1, 0, 1]),
        (["10", "9", "10"], ["9", "10"], [1, 0, 1]),
        ([1.0, 0.0, float("nan")], ["0", "1"], [1, 0, NO_LABEL]),
        ([-1, 1], ["-1", "1"], [0, 1]),
        ([True, False, None], ["false", "true"], [1, 0, NO_LABEL]),
        (["1", "one"], ["1", "one"], [0, 1]),
        (["nan", "inf"], ["inf", "nan"], [1, 0]),
    ],
)
def test_labels_become_ids(values: list[Any], names: list[str], ids: list[int]) -> None:
    assert encode(values) == (names, ids)


def test_names_that_the_data_gives() -> None:
    assert encode([1, 0, 1], known_names=["no", "yes"]) == (["no", "yes"], [1, 0, 1])
    assert encode([0, 0], known_names=["no", "yes"]) == (["no", "yes"], [0, 0])
    assert encode(["a", "b"], known_names=["b", "a"]) == (["b", "a"], [1, 0])
    with pytest.raises(DataError, match="from 0 to 2"):
        encode([0, 2], known_names=["no", "yes"])
    with pytest.raises(DataError, match="lack c"):
        encode(["a", "c"], known_names=["b", "a"])


def test_a_class_label_keeps_its_names_and_its_secret_rows() -> None:
    features = Features({"y": ClassLabel(names=["z", "a"])})
    rows = Dataset.from_dict({"y": [0, 1, -1, None]}, features=features)
    labels = encode_labels({"train": rows}, "y")
    assert (labels.names, labels.ids["train"]) == (["z", "a"], [0, 1, NO_LABEL, NO_LABEL])
    renamed = encode_labels({"train": rows}, "y", rules={"first": "a", "second": "z"})
    assert (renamed.names, renamed.ids["train"]) == (["first", "second"], [1, 0, NO_LABEL, NO_LABEL])


def test_labels_are_the_same_in_all_splits() -> None:
    splits = {"train": Dataset.from_dict({"y": ["b", "c"]}), "test": Dataset.from_dict({"y": ["a", "c"]})}
    labels = encode_labels(splits, "y")
    assert labels.names == ["a", "b", "c"]
    assert labels.ids == {"train": [1, 2], "test": [0, 2]}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0.5, 1.25], "numbers from 0.5 to 1.25"),
        ([[1], [2]], "one label a row"),
        (["same", "same"], "fewer than two classes"),
        ([None, None], "fewer than two classes"),
    ],
)
def test_columns_that_are_no_labels(values: list[Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        encode(values)


def test_rules_name_and_order_the_classes() -> None:
    assert encode([0, 1, 2], rules={"yes": "== 1", "no": "0"}) == (["yes", "no"], [1, 0, NO_CLASS])
    assert encode(["p", "n", "x"], rules={"positive": "p", "negative": "n"}) == (
        ["positive", "negative"],
        [0, 1, NO_CLASS],
    )
    with pytest.raises(DataError, match=r"No row fits class 'b' \('q'\)"):
        encode(["p", "n"], rules={"a": "p", "b": "q"})
    with pytest.raises(DataError, match="'high' is not a number"):
        encode(["0.5", "high"], rules={"a": "< 0", "b": "> 0"})


# Twin: Python's own comparison of the same text.
SIGNS = ("<", "<=", ">", ">=", "==")


@pytest.mark.parametrize("sign", SIGNS)
def test_a_rule_is_the_comparison_that_it_looks_like(sign: str) -> None:
    for bound in (-2.5, 0.0, 1.0, 1e3):
        span = parse_span(f" {sign}{bound:g}")
        for value in (-1e9, -2.5, -2.4999, 0.0, 1.0, 1000, 1e9):
            assert (value in span) is eval(f"{value} {sign} {bound}")  # noqa: S307


def test_ranges_have_both_ends() -> None:
    span = parse_span("-1 .. 2.5")
    assert [value in span for value in (-1.1, -1, 0, 2.5, 2.6)] == [False, True, True, True, False]
    assert 1 in parse_span(".5..1e1")
    assert 0.49 not in parse_span(".5..1e1")


def test_overlap_is_seen_exactly_where_a_number_is_in_both() -> None:
    rng = random.Random(0)
    grid = [number / 2 for number in range(-8, 9)]
    for _ in range(500):
        rules = []
        for _ in range(2):
            if rng.random() < 0.3:
                low, high = sorted(rng.choices(range(-3, 4), k=2))
                rules.append(f"{low}..{high}")
            else:
                rules.append(f"{rng.choice(SIGNS)} {rng.randint(-3, 3)}")
        one, other = (parse_span(rule) for rule in rules)
        # Bounds are whole numbers, so two spans that meet do so at a half or a whole.
        meets = any(value in one and value in other for value in grid)
        assert one.meets(other) is meets, rules
        if meets:
            with pytest.raises(RecipeError, match="overlap"):
                parse_classes({"a": rules[0], "b": rules[1]})
        else:
            parse_classes({"a": rules[0], "b": rules[1]})


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"a": "=> 0", "b": "< 0"}, "Cannot read the rule of class 'a'"),
        ({"a": "> zero", "b": "< 0"}, "Cannot read the rule of class 'a'"),
        ({"a": "__import__('os')", "b": "< 0"}, "two kinds"),
        ({"a": "", "b": "< 0"}, "Cannot read the rule of class 'a'"),
        ({"a": "3..1", "b": "< 0"}, "smaller end first"),
        ({"a": "x", "b": "x"}, "same rule"),
        ({"a": "<= 0", "b": "0..1"}, "overlap"),
    ],
)
def test_rules_that_cannot_be_used(rules: dict[str, str], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse_classes(rules)


def test_neither_nan_nor_infinity_is_lost_or_found_by_chance() -> None:
    class_of = parse_classes({"low": "< 0", "high": ">= 0"})
    assert class_of("nan") is None
    assert class_of("inf") == 1
    assert class_of(json.loads("-1e400")) == 0
