"""Rows that belong together: their group on its way from the data to the batches, and in the splits."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from test_text_classification import make_tokenizer

from distil_nlp.data.groups import group_ids
from distil_nlp.data.load import load_task_data
from distil_nlp.data.tasks import TextClassification
from distil_nlp.errors import DataError, RecipeError
from distil_nlp.recipe import Recipe
from distil_nlp.recipe.tasks import TextClassificationSection

QUERIES, PASSAGES = 60, 3


def task_of(folder: Path, **settings: Any) -> TextClassification:
    values = {"name": "text-classification", "dataset": str(folder), "problem": "regression", "max_length": 8}
    section = {**values, "text": "query", "text_pair": "passage", "label": "score", "group": "qid", **settings}
    return TextClassification(TextClassificationSection.model_validate(section))


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def passages(qid: Any) -> list[dict[str, Any]]:
    return [
        {"qid": qid(query), "query": f"w{query % 30}", "passage": f"w{part} w{query // 30}", "score": query + part / 4}
        for part in range(PASSAGES)
        for query in range(QUERIES)
    ]


@pytest.mark.parametrize("qid", [int, lambda number: -number, lambda number: f" q-{number}"])
def test_groups_stay_whole_in_the_splits_and_reach_the_batches_as_numbers(tmp_path: Path, qid: Any) -> None:
    write(tmp_path / "train.jsonl", passages(qid))
    task, tokenizer = task_of(tmp_path), make_tokenizer()
    splits = load_task_data(task).splits
    members: dict[int, set[str]] = {}
    for name, rows in splits.items():
        for row in rows:
            members.setdefault(row["group"], set()).add(f"{name} {int(row['label'])}")
    assert len(members) == QUERIES
    assert all(len(places) == 1 for places in members.values())  # one query, and in one split
    assert sum(map(len, splits.values())) == QUERIES * PASSAGES
    assert min(map(len, splits.values())) >= PASSAGES
    rows = task.tokenize(splits["train"], tokenizer)
    assert rows["group"][:] == splits["train"]["group"][:]
    for train in (True, False):
        batch = task.collator(tokenizer, train=train)([rows[0], rows[1], rows[2]])
        assert batch["group"].dtype == torch.int64
        assert batch["group"].tolist() == rows["group"][:3]
        assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels", "group"}


def test_a_group_is_the_same_in_every_file_and_in_any_order(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", passages(str))
    first = load_task_data(task_of(tmp_path)).splits
    write(tmp_path / "train.jsonl", passages(str)[::-1])
    again = load_task_data(task_of(tmp_path)).splits
    for name, rows in first.items():
        assert set(rows["group"][:]) == set(again[name]["group"][:])
    write(tmp_path / "test.jsonl", passages(int)[:7])
    given = load_task_data(task_of(tmp_path)).splits["test"]
    known = {row["text"] + row["text_pair"]: row["group"] for rows in first.values() for row in rows}
    assert all(known[row["text"] + row["text_pair"]] == row["group"] for row in given)


def test_without_the_key_there_is_no_such_column(tmp_path: Path) -> None:
    rows = [{**row, "group": 3} for row in passages(int)]
    write(tmp_path / "train.jsonl", rows)
    task = task_of(tmp_path, group=None)
    tokenized = task.tokenize(load_task_data(task).splits["train"], make_tokenizer())
    assert set(tokenized.column_names) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    assert not hasattr(task.collator(make_tokenizer()), "columns")


def test_rows_without_a_group_are_left_out(tmp_path: Path) -> None:
    rows = passages(str)
    rows[0]["qid"], rows[1]["qid"] = None, " "
    write(tmp_path / "train.jsonl", rows)
    summary = load_task_data(task_of(tmp_path)).summary
    assert summary.dropped == {"no group": 2}
    assert sum(summary.rows.values()) == len(rows) - 2


def test_columns_that_do_not_group(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{**row, "qid": number} for number, row in enumerate(passages(str))])
    with pytest.raises(DataError, match=r"(?s)'qid' is to say which rows belong together.*No two of 180 training rows"):
        load_task_data(task_of(tmp_path))
    for odd in (0.5, True, [1]):
        with pytest.raises(DataError, match=r"(?s)'g' does not say to which group.*texts or whole numbers"):
            group_ids(Dataset.from_dict({"g": [odd, odd]}), "g")
    assert group_ids(Dataset.from_dict({"g": [math.nan, math.nan]}), "g") == [None, None]


def test_no_two_of_many_groups_have_the_same_number() -> None:
    numbers = group_ids(Dataset.from_dict({"g": [str(number) for number in range(100_000)]}), "g")
    assert len(set(numbers)) == 100_000
    assert all(0 <= number < 2**56 for number in numbers)  # type: ignore[operator]


RECIPE = """\
task: {name: text-classification, dataset: rows.csv, group: qid%s}
teacher: {model: org/teacher, fine_tune: {%s}}
student: {num_layers: 3}
training: {%s}
"""


@pytest.mark.parametrize(
    ("parts", "place", "words"),
    [
        ((", unlabelled: more.txt", "", ""), "1:54", "'task.group' cannot be used.*belong to none"),
        ((", augment: {copies: 1, methods: [mask]}", "", ""), "1:54", "'task.group' cannot be used.*belong to none"),
        (("", "", "train_sampling_strategy: group_by_length"), "4:12", "'training.train_sampling_strategy'.*side by"),
        (("", "train_sampling_strategy: sequential", ""), "2:43", "'teacher.fine_tune.train_sampling_strategy'.*side"),
    ],
)
def test_what_does_not_go_with_groups(tmp_path: Path, parts: tuple[str, str, str], place: str, words: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE % parts, encoding="utf-8")
    with pytest.raises(RecipeError, match=f"(?s){place}: {words}"):
        Recipe.load(path)
    path.write_text(RECIPE % ("", "train_sampling_strategy: random", ""), encoding="utf-8")
    Recipe.load(path)
