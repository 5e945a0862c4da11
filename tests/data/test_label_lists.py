"""Columns of lists of labels, and of numbers, whatever they are written as."""

from __future__ import annotations

import math
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Sequence

from distil_nlp.data.label_lists import encode_label_lists, is_entity_tag, numbers
from distil_nlp.errors import DataError


def encode(*lists: Any, known_names: list[str] | None = None, names: list[str] | None = None) -> tuple[Any, Any]:
    features = Features({"label": Sequence(ClassLabel(names=names))}) if names else None
    rows = Dataset.from_dict({"label": list(lists)}, features=features)
    ids, feature = encode_label_lists({"train": rows}, "label", known_names=known_names)
    return ids["train"], feature.feature.names


def test_texts_are_sorted_by_code_point() -> None:
    assert encode(["b", "a"], [], ["é", "B"], None) == ([[2, 1], [], [3, 0], None], ["B", "a", "b", "é"])


def test_whole_numbers_are_sorted_by_value() -> None:
    assert encode([10, 2], [2]) == ([[1, 0], [0]], ["2", "10"])


def test_truths() -> None:
    assert encode([True], [False, True]) == ([[1], [0, 1]], ["False", "True"])


def test_a_class_label_keeps_its_names() -> None:
    assert encode([1, 0], [1], names=["z", "a", "unused"]) == ([[1, 0], [1]], ["z", "a", "unused"])


def test_known_names_name_numbers_and_order_texts() -> None:
    assert encode([1, 0], [2], known_names=["z", "a", "b"]) == ([[1, 0], [2]], ["z", "a", "b"])
    assert encode(["a", "z"], [], known_names=["z", "a", "b"]) == ([[1, 0], []], ["z", "a", "b"])


def test_labels_of_all_splits_count() -> None:
    splits = {name: Dataset.from_dict({"label": [[name], ["x"]]}) for name in ("train", "test")}
    ids, feature = encode_label_lists(splits, "label")
    assert feature.feature.names == ["test", "train", "x"]
    assert ids == {"train": [[1], [2]], "test": [[0], [2]]}


@pytest.mark.parametrize(
    ("lists", "settings", "words"),
    [
        (["a", "b"], {}, "row 1 of train has 'a'"),
        ([["a"], ["b", None]], {}, "row 2 of train has"),
        ([[["a"], ["b"]]], {}, "list of labels a row"),
        ([[0.0, 1.0], [1.0]], {}, "list of labels a row"),
        ([["a"], ["a"]], {}, "There are only"),
        ([["a"], ["bx"]], {"known_names": ["a", "b"]}, "Did you mean 'b'"),
        ([[0], [2]], {"known_names": ["a", "b"]}, "Known: a, b"),
        ([[0], [-1]], {"names": ["a", "b"]}, "Known: a, b"),
    ],
)
def test_what_does_not_fit(lists: list[Any], settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        encode(*lists, **settings)


def test_entity_tags() -> None:
    assert [tag for tag in ("B-PER", "I-x-y", "E-1", "S-A", "O", "B", "B-", "NN-TL", "ADJ") if is_entity_tag(tag)] == [
        "B-PER",
        "I-x-y",
        "E-1",
        "S-A",
    ]


def test_numbers_may_be_text() -> None:
    rows = Dataset.from_dict({"label": ["1", " -2.5 ", "", None, "1e3"]})
    assert numbers(rows, "label") == [1.0, -2.5, None, None, 1000.0]
    assert numbers(Dataset.from_dict({"label": [1, 2.5, math.nan]}), "label") == [1.0, 2.5, None]


@pytest.mark.parametrize("value", ["many", "inf", [1.0]])
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(DataError, match=r"(?s)does not hold numbers.*Row 1 has"):
        numbers(Dataset.from_dict({"label": [value]}), "label")
