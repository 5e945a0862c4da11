"""Labels that are secret, missing, or not what they look like; and teachers that were trained for something else."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from transformers import BertConfig

from distil_nlp.data.batches import Lists
from distil_nlp.data.read import RawData
from distil_nlp.data.tasks import TextClassification, TokenClassification
from distil_nlp.errors import DataError, ModelError
from distil_nlp.recipe.tasks import TextClassificationSection, TokenClassificationSection

TEXTS = ["w0", "w1", "w2", "w3"]
PROBLEMS = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
NAN = math.nan


def task_of(problem: str = "single_label", **settings: Any) -> TextClassification:
    values = {"name": "text-classification", "dataset": "here", "problem": problem, **settings}
    return TextClassification(TextClassificationSection.model_validate(values))


def clean(task: TextClassification, feature: Any = None, **labels: list[Any]) -> dict[str, list[Any]]:
    features = None if feature is None else Features({"text": Value("string"), "label": feature})
    splits = {name: Dataset.from_dict({"text": TEXTS, "label": each}, features) for name, each in labels.items()}
    return {name: rows["label"][:] for name, rows in task.clean(RawData(splits), Counter()).items()}


SECRET = [
    ("single_label", None, [0, 1, 0, 1], [-1] * 4),  # as SST-2's test split on the Hub, saved as json
    ("single_label", None, ["0", "1", "0", "1"], ["-1"] * 4),  # or as csv
    ("single_label", None, [0.0, 1.0, 0.0, 1.0], [-1.0, -1.0, None, -1.0]),
    ("single_label", None, ["a", "b", "a", None], ["", " ", None, ""]),
    ("single_label", ClassLabel(names=["a", "b"]), [0, 1, -1, 1], [-1] * 4),
    ("multi_label", None, [["a"], ["b"], [], ["a", "b"]], [None] * 4),
    ("multi_label", Sequence(ClassLabel(names=["a", "b"])), [[0], [1], [], [0, 1]], [[-1]] * 4),
    ("multi_label", None, [["a"], ["b"], [], ["a", "b"]], [[]] * 4),
    ("regression", None, ["0.5", "1", "-1", "3"], ["-1"] * 4),
    ("regression", None, [0.5, 1.0, -1.0, 3.0], [NAN] * 4),
]


@pytest.mark.parametrize(("problem", "feature", "train", "secret"), SECRET)
def test_a_split_with_secret_labels_is_left_out(problem: str, feature: Any, train: Any, secret: Any) -> None:
    found = clean(task_of(problem), feature, train=train, validation=train, test=secret)
    assert set(found) == {"train", "validation"}


def test_classes_do_not_meet_the_secret_labels() -> None:
    task = task_of(classes={"no": "0", "yes": "1"})
    assert clean(task, train=[0, 1, 0, 1], test=[-1] * 4) == {"train": [0, 1, 0, 1]}


@pytest.mark.parametrize(
    ("problem", "train", "test", "expected"),
    [
        ("single_label", [-1, 0, 1, 1], [-1] * 4, [0] * 4),  # negative, neutral, positive
        ("regression", [0.0, 1.0, 2.0, 3.0], [-1.0, 0.0, -1.0, -1.0], [-1.0, 0.0, -1.0, -1.0]),
    ],
)
def test_labels_that_are_no_secret(problem: str, train: Any, test: Any, expected: Any) -> None:
    assert clean(task_of(problem), train=train, test=test)["test"] == expected


def test_white_space_and_class_ids_below_zero_are_no_numbers() -> None:
    task = task_of("regression")
    assert clean(task, train=["1", " ", "", "2 "])["train"] == [1.0, 2.0]
    assert clean(task, ClassLabel(names=["*", "**"]), train=[0, 1, -1, 1])["train"] == [0.0, 1.0, 1.0]
    with pytest.raises(DataError, match=r"(?s)does not hold numbers.*'nan'"):
        clean(task, train=["1", "nan", "2", "3"])


@pytest.mark.parametrize("lists", [[[0, 1], [1, 0]] * 2, [[True, False], [False, True]] * 2, [[0, 1], None] * 2])
def test_ones_and_zeros_for_two_labels_are_refused(lists: list[Any]) -> None:
    """No list repeats a label, but all have both."""
    with pytest.raises(DataError, match=r"(?s)Row 1 of train has .*which all training rows have.*rather than a 0 or 1"):
        clean(task_of("multi_label"), train=lists)


def test_a_label_that_is_not_among_the_names_is_said() -> None:
    with pytest.raises(DataError, match=r"Some row has '-1'\. Known: a, b"):
        clean(task_of("multi_label"), Sequence(ClassLabel(names=["a", "b"])), train=[[0], [-1], [], [0, 1]])


@pytest.mark.parametrize(
    ("problem", "labels", "fits"),
    [
        ("single_label", [0, -100], [0, 1]),
        ("multi_label", [[1.0, 0.0], [NAN, NAN]], [[1.0, 0.0], [0.0, 0.0]]),
        ("regression", [1.0, NAN], [1.0, -100.0]),
    ],
)
def test_rows_without_labels_cannot_be_scored(problem: str, labels: Any, fits: Any) -> None:
    rows, others = Dataset.from_dict({"labels": labels}), Dataset.from_dict({"labels": fits})
    with pytest.raises(DataError, match="1 of 2 rows have none"):
        task_of(problem).references(rows, rows)
    assert task_of(problem).references(others, others).tolist() == fits


@pytest.mark.parametrize(
    ("problem", "labels", "outputs"),
    [
        ("single_label", [1], [[0.0, 1.0]]),
        ("single_label", [1, 1], [[0.0, 1.0], [1.0, 0.0]]),
        ("multi_label", [[1.0, 0.0]], [[1.0, -1.0]]),
        ("multi_label", [[0.0, 0.0]] * 2, [[-1.0, -1.0]] * 2),
        ("regression", [2.0], [[1.5]]),
    ],
)
def test_rows_that_are_all_alike_do_not_tell_a_teacher_from_a_constant(problem: str, labels: Any, outputs: Any) -> None:
    rows = Dataset.from_dict({"labels": labels})
    assert task_of(problem).weakness(Lists(np.array(outputs), np.ones(len(labels), int)), rows) is None


# ---- teachers ----


def teacher_for(said: str | None, *names: str) -> Any:
    named = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    return SimpleNamespace(config=BertConfig(**named, problem_type=said))


@pytest.mark.parametrize("said", [None, *PROBLEMS.values()])
@pytest.mark.parametrize("asked", PROBLEMS)
def test_a_teacher_of_another_problem_is_refused(asked: str, said: str | None) -> None:
    names = None if asked == "regression" else ["a", "b"]
    if said == "single_label_classification" and names is None:
        return  # no configuration has that with one output
    teacher = teacher_for(said, *(names or ["LABEL_0"]))
    if said in (None, PROBLEMS[asked]):
        task_of(asked).fit_teacher(teacher, names)
        assert teacher.config.problem_type == PROBLEMS[asked]
    else:
        with pytest.raises(ModelError, match=f"(?s)problem: {asked}.*problem_type {said}.*fine_tune"):
            task_of(asked).fit_teacher(teacher, names)
        assert teacher.config.problem_type == said


@pytest.mark.parametrize("names", [["b", "a"], ["a", "b", "c"], ["a", "z"]])
def test_the_way_out_of_labels_that_differ_is_one_that_the_task_has(names: list[str]) -> None:
    tokens = TokenClassification(TokenClassificationSection(name="token-classification", dataset="here"))
    for task, classes in ((task_of(), True), (task_of("multi_label"), False), (tokens, False)):
        with pytest.raises(ModelError, match="do not agree") as failure:
            task.fit_teacher(teacher_for(None, *names), ["a", "b"])
        by_classes = classes and names != ["a", "b", "c"]  # a rule that no row fits is an error
        assert ("`classes`" in str(failure.value)) == by_classes
        assert ("meta.json" in str(failure.value)) == (not by_classes)


def test_label_names_of_a_meta_json_are_that_way_out() -> None:
    """Another order, and a label that the teacher knows and no row has."""
    names = ["b", "c", "a"]
    for task, labels, ids in (
        (task_of("multi_label"), [["a"], ["b"], [], ["a", "b"]], [[2], [0], [], [2, 0]]),
        (task_of(), ["a", "b", "b", "a"], [2, 0, 0, 2]),
    ):
        raw = RawData({"train": Dataset.from_dict({"text": TEXTS, "label": labels})}, label_names=names)
        rows = task.clean(raw, Counter())["train"]
        assert rows["label"][:] == ids
        task.fit_teacher(teacher_for(None, *names), task.label_names(rows))
