"""Splits that do not say what is right, as those of many a competition: they count as missing, whatever the task."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value

from distil_nlp.data.read import RawData
from distil_nlp.data.tasks import TASKS
from distil_nlp.errors import DataError
from distil_nlp.recipe.tasks import (
    QuestionAnsweringSection,
    Text2TextGenerationSection,
    TextGenerationSection,
    TokenClassificationSection,
)

SECTIONS = {
    "token-classification": TokenClassificationSection,
    "question-answering": QuestionAnsweringSection,
    "text2text-generation": Text2TextGenerationSection,
    "text-generation": TextGenerationSection,
}
NAMES = Sequence(ClassLabel(names=["B-PER", "O"]))
WORDS = {"tokens": ["Ada", "wrote"]}
QUESTION = {"question": "who?", "context": "Ada wrote it"}


def clean(name: str, train: list[Any], test: list[Any], features: Any = None, **settings: Any) -> set[str]:
    task = TASKS[name](SECTIONS[name].model_validate({"name": name, "dataset": "here", **settings}))
    splits = {"train": train, "validation": train, "test": test}
    raw = {split: Dataset.from_list(rows, features) for split, rows in splits.items()}
    return set(task.clean(RawData(raw), Counter()))


def tags(*values: Any) -> list[Any]:
    return [{**WORDS, "tags": value} for value in values]


def answers(*texts: str) -> dict[str, Any]:
    return {**QUESTION, "answers": {"text": list(texts), "answer_start": [0] * len(texts)}}


IDS = Features({"tokens": Sequence(Value("string")), "tags": NAMES})
PAIRS = {"prompt": "prompt", "completion": "completion"}
CASES = [
    ("token-classification", tags(["B-PER", "O"]), tags(["O", "O"]), {}),
    ("token-classification", tags(["B-PER", "O"]), tags(None, ["O", "O"]), {}),
    ("token-classification", tags([0, 1]), tags([1, 1]), {"features": IDS}),
    ("question-answering", [answers("Ada"), answers()], [answers(), answers()], {"no_answer": True}),
    ("question-answering", [answers("Ada")], [answers("")], {}),
    ("text2text-generation", [{"source": "a", "target": "b"}], [{"source": "a", "target": " "}], {}),
    ("text-generation", [{"prompt": "a", "completion": "b"}], [{"prompt": "a", "completion": ""}], PAIRS),
]


@pytest.mark.parametrize(("name", "train", "test", "settings"), CASES)
def test_it_is_left_out(
    name: str, train: list[Any], test: list[Any], settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert clean(name, train, test, **settings) == {"train", "validation"}
    assert "The test rows do not say what is right and are left out." in caplog.text
    assert clean(name, train, [*test, *train], **settings) == {"train", "validation", "test"}


def test_tags_may_be_numbers_that_stand_for_none() -> None:
    assert clean("token-classification", tags([0, 1]), tags([-1, -1]), IDS) == {"train", "validation"}
    assert clean("token-classification", tags([0, 1]), tags([-100, -100])) == {"train", "validation"}


@pytest.mark.parametrize("wrong", [1, "B-PER O", [["O"]]])
def test_a_column_without_lists_of_tags_is_still_an_error(wrong: Any) -> None:
    with pytest.raises(DataError, match="does not hold a list of labels"):
        clean("token-classification", tags(["B-PER", "O"]), tags(wrong))


def test_a_text_has_nothing_to_keep_to_itself() -> None:
    assert clean("text-generation", [{"text": "a"}], [{"text": ""}]) == {"train", "validation", "test"}
