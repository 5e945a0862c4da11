"""The ``task`` section: each mistake is one error with its place, in the words of that task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from distil_nlp.build import Assembly
from distil_nlp.data.load import load_task_data
from distil_nlp.data.tasks import TASKS
from distil_nlp.errors import DataError, RecipeError
from distil_nlp.recipe import Recipe
from distil_nlp.recipe.tasks import AnyTaskSection

REST = """\
teacher: {model: org/teacher, fine_tune: {}}
student: {num_layers: 3}
"""


def written(folder: Path, task: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(f"task:\n{task}{REST}", encoding="utf-8")
    return path


def fails(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(path, overrides)
    return str(caught.value)


DATA = "  dataset: rows.csv\n"
CLASSIFIES, TAGS, ANSWERS = (
    f"  name: {name}\n" for name in ("text-classification", "token-classification", "question-answering")
)


@pytest.mark.parametrize(
    ("task", "place", "words"),
    [
        (DATA, "1:1", "'task' needs the key 'name'"),
        ("  name: text-clasification\n" + DATA, "2:3", "Did you mean 'text-classification'?"),
        ("  name: question_answering\n" + DATA, "2:3", "Did you mean 'question-answering'?"),
        ("  name: 3\n" + DATA, "2:3", "'task.name' cannot be '3'"),
        (TAGS, "1:1", "'task' needs the key 'dataset'"),
        (TAGS + DATA + "  tag: ner\n", "4:3", "unknown key 'tag' in 'task'.\nDid you mean 'tags'?"),
        (CLASSIFIES + DATA + "  labels: x\n", "4:3", "unknown key 'labels' in 'task'.\nDid you mean 'label'?"),
        (ANSWERS + DATA + "  answer: x\n", "4:3", "Did you mean 'answers'?"),
        (ANSWERS + DATA + "  null_treshold: 1\n", "4:3", "Did you mean 'null_threshold'?"),
        (TAGS + DATA + "  tags: 3\n", "4:3", 'Put it in quotes: "3"'),
        (TAGS + DATA + "  max_length: 0\n", "4:3", "'task.max_length' cannot be 0"),
        (CLASSIFIES + DATA + "  problem: multilabel\n", "4:3", "Did you mean 'multi_label'?"),
        (CLASSIFIES + DATA + "  problem: regression\n  classes: {a: '0', b: '1'}\n", "5:3", "Leave out `classes`"),
        (CLASSIFIES + DATA + "  classes: {a: '0', b: ''}\n", "4:21", "at least 1 character"),
        (ANSWERS + DATA + "  stride: 200\n", "4:3", "half of their tokens"),
        (ANSWERS + DATA + "  max_length: 128\n  stride: 128\n", "5:3", "half of their tokens"),
        (ANSWERS + DATA + "  null_threshold: 2.0\n", "4:3", "no_answer: true"),
        (ANSWERS + DATA + "  no_answer: true\n  null_threshold: '2.0'\n", "5:3", "number"),
        (ANSWERS + DATA + "  no_answer: 1\n", "4:3", "valid boolean"),
        (TAGS + DATA + "  split_names: {training: a}\n", "4:3", "Did you mean 'train'?"),
        (TAGS + DATA + "  split_names: {test: a}\n", "4:3", "Name the data's split for train"),
        (TAGS + DATA + "  split_names: {train: a, test: a}\n", "4:3", "another for each of the others"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_error_with_its_place(tmp_path: Path, task: str, place: str, words: str) -> None:
    path = written(tmp_path, task)
    error = fails(path)
    assert error.startswith(f"{path}:{place}: "), error
    assert words in error


@pytest.mark.parametrize("task", ["text", "[text]", "3", ""])
def test_a_task_that_is_no_section(tmp_path: Path, task: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"task: {task}\n{REST}", encoding="utf-8")
    error = fails(path)
    assert error.startswith(f"{path}:1:1: 'task'"), error
    assert "A section is needed here" in error


def test_an_unknown_key_names_those_of_its_own_task_alone(tmp_path: Path) -> None:
    error = fails(written(tmp_path, TAGS + DATA + "  question: x\n"))
    known = error.partition("Known: ")[2].rstrip(".").split(", ")
    assert {"tokens", "tags", "dataset"} <= set(known)
    assert not {"question", "context", "text_pair"} & set(known)


def test_another_task_by_an_override_has_other_keys(tmp_path: Path) -> None:
    path = written(tmp_path, CLASSIFIES + DATA + "  text_pair: other\n")
    error = fails(path, "task.name=token-classification")
    assert "unknown key 'text_pair'" in error
    assert fails(path, "task.name=token-clasification").startswith("override 'task.name=token-clasification'")


def test_every_task_of_the_library_has_a_section_of_its_own() -> None:
    sections = get_args(get_args(AnyTaskSection)[0])
    assert {get_args(section.model_fields["name"].annotation)[0] for section in sections} == set(TASKS)


@pytest.mark.parametrize(
    ("task", "rows", "metric", "words"),
    [
        (CLASSIFIES, [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(60)], "entity_f1", "task's are 'class'"),
        (CLASSIFIES, [{"text": f"t{i}", "label": "abc"[i % 3]} for i in range(60)], "f1", "for two classes"),
        (TAGS, [{"tokens": [f"t{i}"], "tags": ["AB"[i % 2]]} for i in range(60)], "entity_f1", "Use tag_accuracy"),
        (TAGS, [{"tokens": [f"t{i}"], "tags": ["AB"[i % 2]]} for i in range(60)], "accuracy", "this task's are 'tags'"),
        (
            ANSWERS,
            [{"question": "?", "context": f"t{i}", "answers": {"text": ["t"], "answer_start": [0]}} for i in range(60)],
            "f1",
            "this task's are 'answer'",
        ),
    ],
)  # fmt: skip
def test_metrics_that_do_not_suit_the_task(
    tmp_path: Path, task: str, rows: list[dict], metric: str, words: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = Recipe.load(written(tmp_path, f"{task}  dataset: {file}\n  metrics: [{metric}]\n"))
    with pytest.raises(RecipeError, match=words):
        _ = Assembly(recipe).metrics


def write_splits(folder: Path, **sizes: int) -> Path:
    folder.mkdir()
    for name, size in sizes.items():
        rows = [{"text": f"{name} {i}", "label": "ab"[i % 2]} for i in range(size)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_splits_of_other_names(tmp_path: Path) -> None:
    data = write_splits(tmp_path / "data", train=60, validation=9, test=4, dev_matched=7)
    path = written(tmp_path, f"{CLASSIFIES}  dataset: {data}\n")

    def rows(*overrides: str) -> tuple[dict[str, int], list[str]]:
        task = Recipe.load(path, overrides).task
        summary = load_task_data(TASKS[task.name](task)).summary
        return summary.rows, summary.carved

    assert rows() == ({"train": 60, "validation": 9, "test": 4}, [])
    found, carved = rows("task.split_names={train: train, test: dev_matched}")
    assert (carved, found["test"], found["train"] + found["validation"]) == (["validation"], 7, 60)
    assert rows("task.split_names={train: test, validation: train, test: validation}")[0] == {
        "train": 4,
        "validation": 60,
        "test": 9,
    }
    with pytest.raises(DataError, match="Did you mean 'dev_matched'"):
        rows("task.split_names={train: train, test: dev_mached}")


def test_an_override_of_the_data_drops_the_names_of_its_splits(tmp_path: Path) -> None:
    path = written(tmp_path, f"{CLASSIFIES}  dataset: glue\n  split_names: {{train: train, test: validation}}\n")
    assert Recipe.load(path).task.split_names == {"train": "train", "test": "validation"}
    assert Recipe.load(path, ["task.dataset=here"]).task.split_names is None
