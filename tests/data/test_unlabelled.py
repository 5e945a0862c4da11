"""Rows without labels: read, tokenized, and added to a student's training rows."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from test_text_classification import make_tokenizer

from distil_nlp.data.augment import Augmentation
from distil_nlp.data.load import TaskData, load_task_data
from distil_nlp.data.student_rows import StudentRows, new_copies, student_rows
from distil_nlp.data.tasks import TASKS, Task
from distil_nlp.data.words import Words
from distil_nlp.errors import DataError
from distil_nlp.recipe.tasks import FeatureExtractionSection, TextClassificationSection, TokenClassificationSection

SECTIONS = {
    "text-classification": TextClassificationSection,
    "token-classification": TokenClassificationSection,
    "feature-extraction": FeatureExtractionSection,
}
SPLIT_SIZES = {"train": 12, "validation": 4, "test": 4}
PROBLEMS: dict[str, Any] = {
    "single_label": lambda i: ("bad", "good")[i % 2],
    "multi_label": lambda i: [["x"], ["x", "y"], []][i % 3],
    "regression": lambda i: i / 2 - 100,  # one label is -100
}


def task_of(name: str, folder: Path, **settings: Any) -> Task:
    return TASKS[name](SECTIONS[name].model_validate({"name": name, "dataset": str(folder / "data"), **settings}))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_splits(folder: Path, **columns: Any) -> None:
    """Rows whose columns are functions of their number, counted through all splits."""
    start = 0
    for split, size in SPLIT_SIZES.items():
        rows = [{name: make(i) for name, make in columns.items()} for i in range(start, start + size)]
        write(folder / "data" / f"{split}.jsonl", rows)
        start += size


def text(i: int) -> str:
    return f"w{i} w1 w2"


def classification(folder: Path, problem: str = "single_label", **settings: Any) -> Task:
    write_splits(folder, text=text, label=PROBLEMS[problem])
    return task_of("text-classification", folder, problem=problem, **settings)


def tags(folder: Path, **settings: Any) -> Task:
    write_splits(folder, tokens=lambda i: text(i).split(), tags=lambda i: ["O", "B-X", "O"])
    return task_of("token-classification", folder, **settings)


def all_rows(task: Task, how: Augmentation | None = None) -> tuple[TaskData, StudentRows]:
    data, tokenizer = load_task_data(task), make_tokenizer()
    labelled = task.tokenize(data.splits["train"], tokenizer)
    copies = None if how is None else new_copies(task, data.splits, how, lambda line: None)
    return data, student_rows(task, data.splits, labelled, tokenizer=tokenizer, copies=copies)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_unlabelled_rows_follow_the_labelled_ones_and_have_no_label(tmp_path: Path, problem: str) -> None:
    more = write(tmp_path / "more.jsonl", [{"text": "w20 w21", "other": 1}, {"text": "w22", "other": 2}])
    task = classification(tmp_path, problem, unlabelled=str(more))
    data, (rows, augmented) = all_rows(task)
    assert data.summary.rows == {**SPLIT_SIZES, "unlabelled": 2}
    assert set(data.summary.sha256) == {"train.jsonl", "validation.jsonl", "test.jsonl", "unlabelled: more.jsonl"}
    assert (len(rows), augmented) == (14, 0)
    labelled = task.tokenize(data.splits["train"], make_tokenizer())
    assert rows.features == labelled.features
    assert rows.select(range(12))[:] == labelled[:]
    assert rows["input_ids"][12:] == [[2, 24, 25, 3], [2, 26, 3]]
    unknown = {"single_label": [-100], "regression": [math.nan], "multi_label": [math.nan, math.nan]}[problem]
    for found in rows["labels"][12:]:
        assert (found if isinstance(found, list) else [found]) == pytest.approx(unknown, nan_ok=True)
    known = [label for found in labelled["labels"][:] for label in (found if isinstance(found, list) else [found])]
    assert not any(math.isnan(label) for label in known)
    batch = task.collator(make_tokenizer())([rows[0], rows[13]])
    assert batch["labels"].dtype == task.collator(make_tokenizer())([rows[0], rows[1]])["labels"].dtype


def test_words_without_tags_are_predicted_at_the_same_places(tmp_path: Path) -> None:
    more = write(tmp_path / "more.jsonl", [{"tokens": ["w0", "w1", "w2"]}, {"tokens": ["w20"]}, {"tokens": []}])
    data, (rows, _) = all_rows(tags(tmp_path, unlabelled={"dataset": str(more)}))
    assert data.summary.dropped == {"unlabelled, no words": 1}
    assert rows["labels"][0] == [-100, 1, 0, 1, -100]
    assert rows["labels"][12:] == [[-100, -101, -101, -101, -100], [-100, -101, -100]]
    assert rows["input_ids"][12] == rows["input_ids"][0]


@pytest.mark.parametrize("name", ["text-classification", "token-classification"])
def test_rows_that_lack_the_column_are_unlabelled(tmp_path: Path, name: str) -> None:
    column = {"text": ["w1 w2"]} if name == "text-classification" else {"tokens": [["w1", "w2"]]}
    rows = task_of(name, tmp_path).tokenize(Dataset.from_dict(column), make_tokenizer())
    assert rows["labels"][0] == (-100 if name == "text-classification" else [-100, -101, -101, -100])


def test_texts_of_validation_and_test_are_left_out_and_counted(tmp_path: Path) -> None:
    texts = [text(0), text(12).upper(), f" ``{text(19)} .''", "w20", "", "w20"]
    more = write(tmp_path / "more.jsonl", [{"text": each} for each in texts])
    data, (rows, _) = all_rows(classification(tmp_path, unlabelled=str(more)))
    assert data.summary.dropped == {"unlabelled, empty text": 1, "unlabelled, in validation or test": 2}
    assert data.summary.rows["unlabelled"] == 3
    assert data.splits["unlabelled"]["text"][:] == [text(0), "w20", "w20"]
    assert len(rows) == 15


def test_pairs_are_told_apart_by_both_texts(tmp_path: Path) -> None:
    write_splits(tmp_path, text=text, other=lambda i: f"w{i}", label=PROBLEMS["single_label"])
    pairs = [{"text": text(13), "other": "w13"}, {"text": text(13), "other": "w14"}, {"text": "w1", "other": ""}]
    more = write(tmp_path / "more.jsonl", pairs)
    data, (rows, _) = all_rows(
        task_of("text-classification", tmp_path, text_pair="other", unlabelled={"dataset": str(more)})
    )
    assert data.summary.dropped == {"unlabelled, empty text": 1, "unlabelled, in validation or test": 1}
    assert rows["token_type_ids"][12] == [0] * 5 + [1] * 2


def test_its_columns_may_have_other_names(tmp_path: Path) -> None:
    write_splits(tmp_path, sentence=text, label=PROBLEMS["single_label"])
    more = write(tmp_path / "more.jsonl", [{"question": "w20 w21", "sentence": 7}])
    section = {"dataset": str(more), "columns": {"text": "question"}}
    task = task_of("text-classification", tmp_path, text="sentence", unlabelled=section)
    assert load_task_data(task).splits["unlabelled"]["text"][:] == ["w20 w21"]


def test_a_text_file_and_a_split_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("w20 w21\n\nw22\n", encoding="utf-8")
    data, _ = all_rows(classification(tmp_path, unlabelled=str(tmp_path / "more.txt")))
    assert data.splits["unlabelled"]["text"][:] == ["w20 w21", "w22"]
    write(tmp_path / "more" / "unsupervised.jsonl", [{"text": "w23"}])
    write(tmp_path / "more" / "train.jsonl", [{"text": "w24"}])
    for split, expected in ((None, "w24"), ("unsupervised", "w23")):
        section = {"dataset": str(tmp_path / "more"), "split": split}
        data, _ = all_rows(classification(tmp_path, unlabelled=section))
        assert data.splits["unlabelled"]["text"][:] == [expected]


@pytest.mark.parametrize("name", ["more.txt", "more.conll"])
@pytest.mark.parametrize("lines", ["w20\nw21\n\nw22\n", "w20\tO\nw21\tB-Y\n\nw22\tO\n"])
def test_a_file_of_words_a_line_with_tags_or_without(tmp_path: Path, name: str, lines: str) -> None:
    (tmp_path / name).write_text(lines, encoding="utf-8")
    data, (rows, _) = all_rows(tags(tmp_path, unlabelled={"dataset": str(tmp_path / name)}))
    assert data.splits["unlabelled"]["tokens"][:] == [["w20", "w21"], ["w22"]]
    assert data.splits["unlabelled"]["tags"][:] == [None, None]
    assert rows["labels"][12:] == [[-100, -101, -101, -100], [-100, -101, -100]]


def test_unlabelled_rows_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    more = write(tmp_path / "more.jsonl", [{"texts": "w20"}])
    with pytest.raises(DataError, match=r"(?s)more\.jsonl' has no column 'text'.*Did you mean 'texts'"):
        all_rows(classification(tmp_path, unlabelled=str(more)))
    write(more, [{"text": 5}])
    with pytest.raises(DataError, match=r"column 'text' of '.*more\.jsonl' is not text"):
        all_rows(classification(tmp_path, unlabelled=str(more)))
    write(more, [{"text": text(12)}, {"text": ""}])
    with pytest.raises(DataError, match=r"(?s)No text of .*1 with empty text, 1 in validation or test"):
        all_rows(classification(tmp_path, unlabelled=str(more)))
    write(more, [{"tokens": "w1 w2"}])
    with pytest.raises(DataError, match=r"more\.jsonl' does not hold lists of words"):
        all_rows(tags(tmp_path, unlabelled={"dataset": str(more)}))


def test_copies_repeat_neither_a_text_nor_each_other_nor_a_text_held_out(tmp_path: Path) -> None:
    """Against all copies, one by one; a test text is a part of a training text."""
    write_splits(tmp_path, text=lambda i: "W3  w1" if i == 17 else text(i), label=PROBLEMS["single_label"])
    task = task_of("text-classification", tmp_path)
    data = load_task_data(task)
    how = Augmentation(copies=12, seed=0, ngram_probability=0.9)
    said: list[str] = []
    found = new_copies(task, data.splits, how, said.append)["text"][:]
    seen, kept, left_out = {text(i) for i in range(12)}, [], Counter[str]()
    for row in data.splits["train"]:
        for copy in how.of_row({"text": (Words.of(row["text"]), [[], [], []])}):
            if copy["text"] == "w3 w1":
                left_out["in validation or test"] += 1
            elif copy["text"] in seen:
                left_out["repeat"] += 1
            else:
                kept.append(copy["text"])
                seen.add(copy["text"])
    assert found == kept
    assert left_out["in validation or test"] > 0
    [line] = said
    assert line.startswith(f"augmented: {len(kept)} copies; without ")
    assert f"{left_out['repeat']} that repeat a text" in line
    assert f"{left_out['in validation or test']} in validation or test" in line
    _, (rows, augmented) = all_rows(task, how)
    assert (len(rows), augmented) == (12 + len(kept), len(kept))


def test_unlabelled_rows_and_copies_come_together_for_tags(tmp_path: Path) -> None:
    more = write(tmp_path / "more.jsonl", [{"tokens": ["w20", "w21"]}])
    how = Augmentation(copies=3, seed=0, mask_token="[UNK]", mask_probability=0.5)
    _, (rows, augmented) = all_rows(tags(tmp_path, unlabelled={"dataset": str(more)}), how)
    assert len(rows) == 13 + augmented
    assert augmented > 12
    assert all(labels == [-100, -101, -101, -101, -100] for labels in rows["labels"][13:])
    assert all(1 in ids for ids in rows["input_ids"][13:])


def test_of_pairs_to_embed_one_text_is_enough(tmp_path: Path) -> None:
    """Either text of a test pair is left out; a copy is of the first text."""
    texts = ["w20 w21", "w17", text(17).upper(), "w3"]
    more = write(tmp_path / "more.jsonl", [{"text": each} for each in texts])
    write_splits(tmp_path, text=text, other=lambda i: f"w{i}", score=lambda i: i / 20)
    task = task_of("feature-extraction", tmp_path, text_pair="other", score="score", unlabelled={"dataset": str(more)})
    data, (rows, augmented) = all_rows(task, Augmentation(copies=3, seed=0, ngram_probability=1.0))
    assert data.summary.dropped == {"unlabelled, in validation or test": 2}
    assert rows["input_ids"][24:26] == [[2, 24, 25, 3], [2, 7, 3]]
    assert len(rows) == 2 * 12 + 2 + augmented
    copies = {tuple(ids) for ids in rows["input_ids"][26:]}
    assert len(copies) == augmented > 3
    assert not copies & {tuple(ids) for ids in rows["input_ids"][:24]}


def test_augmentation_without_any_new_copy_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No copy differs from all other texts"):
        all_rows(classification(tmp_path), Augmentation(copies=2, seed=0))


def test_without_either_the_rows_are_the_labelled_ones(tmp_path: Path) -> None:
    task = classification(tmp_path)
    data, (rows, augmented) = all_rows(task)
    assert set(data.splits) == set(SPLIT_SIZES)
    assert (len(rows), augmented) == (12, 0)
