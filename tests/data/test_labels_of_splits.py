"""Label columns that differ between splits, and labels that look alike."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value

from distil_nlp.data.label_lists import encode_label_lists
from distil_nlp.data.labels import NO_LABEL, encode_labels
from distil_nlp.errors import DataError

HERE, THERE = ClassLabel(names=["neg", "pos"]), ClassLabel(names=["pos", "neg"])


def column(values: list[Any], feature: Any = None) -> Dataset:
    return Dataset.from_dict({"y": values}, None if feature is None else Features({"y": feature}))


def single(train: Dataset, test: Dataset, **options: Any) -> tuple[list[str], list[int], list[int]]:
    labels = encode_labels({"train": train, "test": test}, "y", **options)
    return labels.names, labels.ids["train"], labels.ids["test"]


def lists(train: Dataset, test: Dataset, key: str = "label") -> tuple[list[str], Any, Any]:
    ids, feature = encode_label_lists({"train": train, "test": test}, "y", key=key)
    return feature.feature.names, ids["train"], ids["test"]


@pytest.mark.parametrize(
    ("test", "names", "ids"),
    [
        (column([0, 1], THERE), ["neg", "pos"], [1, 0]),
        (column([0, 1, -1, None], Value("int64")), ["neg", "pos"], [0, 1, NO_LABEL, NO_LABEL]),
        (column([0.0, 1.0, None]), ["neg", "pos"], [0, 1, NO_LABEL]),
        (column(["1", "0", ""]), ["neg", "pos"], [1, 0, NO_LABEL]),  # as csv
        (column(["pos", " neg"]), ["neg", "pos"], [1, 0]),
        (column([2, 1, 0], ClassLabel(names=["neg", "pos", "neu"])), ["neg", "pos", "neu"], [2, 1, 0]),
        (column(["new", "pos"]), ["neg", "pos", "new"], [2, 1]),
        (column([None, None], Value("string")), ["neg", "pos"], [NO_LABEL, NO_LABEL]),
    ],
)
def test_a_class_label_and_another_column(test: Dataset, names: list[str], ids: list[int]) -> None:
    assert single(column([0, 1], HERE), test) == (names, [0, 1], ids)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0, 2], "There are 2, and the ids go from 0 to 2"),
        ([0.5, 1], "others have 0.5"),
        ([True, False], "others have"),
    ],
)
def test_what_is_neither_an_id_nor_a_name(values: list[Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        single(column([0, 1], HERE), column(values))


def test_digits_that_are_names_are_no_ids() -> None:
    stars = ClassLabel(names=["1", "2", "3"])
    assert single(column([0, 1], stars), column(["1", "3"])) == (["1", "2", "3"], [0, 1], [0, 2])


def test_classes_are_of_the_names() -> None:
    rules = {"good": "pos", "bad": "neg"}
    assert single(column([0, 1], HERE), column([1, 0]), rules=rules) == (["good", "bad"], [1, 0], [0, 1])


@pytest.mark.parametrize("key", ["label", "tags"])
def test_lists_of_each_split_have_its_own_names(key: str) -> None:
    train = column([[0], [0, 1], []], Sequence(HERE))
    assert lists(train, column([[0], [0, 1], None], Sequence(THERE)), key) == (
        ["neg", "pos"],
        [[0], [0, 1], []],
        [[1], [1, 0], None],
    )
    assert lists(train, column([[1], [0]]), key)[2] == [[1], [0]]
    more = Sequence(ClassLabel(names=["neu", "pos"]))
    assert lists(train, column([[1], [0]], more), key) == (["neg", "pos", "neu"], [[0], [0, 1], []], [[1], [2]])
    with pytest.raises(DataError, match=r"Some row has '2'\. Known: neg, pos"):
        lists(train, column([[2]]), key)


def test_lists_of_numbers_beside_lists_of_names_are_refused() -> None:
    with pytest.raises(DataError, match="of type int and str"):
        lists(column([[0], [1]]), column([[0], [1]], Sequence(HERE)))


def test_labels_of_lists_are_stripped_and_blank_ones_left_out() -> None:
    names, train, test = lists(column([["a"], ["b", ""], ["b "]]), column([[" "], [" a", "b"]]))
    assert (names, train, test) == (["a", "b"], [[0], [1], [1]], [[], [0, 1]])


def test_a_blank_tag_is_refused() -> None:
    with pytest.raises(DataError, match=r"(?s)Each word needs a tag.*Row 2 of test has \['a', ' '\]"):
        lists(column([["a", "b"]]), column([["b"], ["a", " "]]), "tags")
    with pytest.raises(DataError, match=r"Row 1 of test has \[-100, 1\]"):
        lists(column([[0, 1]]), column([[-100, 1]]), "tags")
    assert lists(column([["a ", "b"]]), column([["b"]]), "tags") == (["a", "b"], [[0, 1]], [[1]])


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["007", "7", "01", "1", "42"], ["007", "01", "1", "42", "7"]),
        (["00", "01", "10"], ["00", "01", "10"]),
        (["+1", "1", "2"], ["+1", "1", "2"]),
        (["-0", "0"], ["-0", "0"]),
        (["10", "9", "9.0", "9.", "-1"], ["-1", "9", "10"]),
        (["9007199254740992", "9007199254740993", "17"], ["17", "9007199254740992", "9007199254740993"]),
        ([9007199254740992, 9007199254740993, 17], ["17", "9007199254740992", "9007199254740993"]),
    ],
)
def test_texts_that_look_like_numbers(values: list[Any], names: list[str]) -> None:
    labels = encode_labels({"train": column(values)}, "y")
    assert labels.names == names
    found = [labels.names[index] for index in labels.ids["train"]]
    assert found == [
        str(value).removesuffix("0").removesuffix(".") if "." in str(value) else str(value) for value in values
    ]
