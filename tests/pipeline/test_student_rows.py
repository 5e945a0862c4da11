"""A run whose student has more rows than its teacher and its control: text without labels, and copies."""

from __future__ import annotations

import csv
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from tiny_run import FILLERS, TRAINING, Case, build_tokenizer, command, save_checkpoint

from distil_nlp.build import Assembly
from distil_nlp.objectives import TaskLoss
from distil_nlp.recipe import Recipe
from distil_nlp.run.changes import FIRST_STAGE, first_stage
from distil_nlp.training import DistillationTrainer

Finished = tuple[Path, str, dict[str, list[Any]]]
AUGMENT = {"copies": 2, "methods": ["ngram", "neighbours"], "candidates": 3}


def write_texts(path: Path, count: int, *others: str) -> Path:
    dice = random.Random(2)
    texts = [" ".join(dice.choices(FILLERS, k=9)) for _ in range(count)]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["words"], *([text] for text in (*texts, *others))])
    return path


@pytest.fixture(scope="module")
def run(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The run's folder, what it printed, and the token ids and labels of every batch by model."""
    folder = tmp_path_factory.mktemp("student_rows")
    held_out = Assembly(Recipe.load(case.recipe(folder))).data.splits["test"]["text"][:3]
    recipe = case.recipe(
        folder,
        task__unlabelled=str(write_texts(folder / "more.csv", 50, *held_out)),
        task__augment=AUGMENT,
        teacher__fine_tune={"num_train_epochs": 2, **TRAINING},
        objectives={"task_loss": {"weight": 0.5}, "logits_kl": {"weight": 0.5}},
        training={"num_train_epochs": 2, **TRAINING},
        control=["same_start"],
        export=None,
    )
    batches: dict[str, list[Any]] = {}
    compute_loss = DistillationTrainer.compute_loss

    def watched(self: DistillationTrainer, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if model.training:
            batches.setdefault(Path(str(self.args.output_dir)).name, []).append(
                [inputs["input_ids"].tolist(), inputs["labels"].tolist()]
            )
            if "task_loss" in self.term_names:
                [own] = [o for o in self.objectives if isinstance(o, TaskLoss)]
                assert own.count(inputs) == sum(label != -100 for label in inputs["labels"].tolist())
        return compute_loss(self, model, inputs, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistillationTrainer, "compute_loss", watched)
        outcome = command("run", recipe, "--output-dir", folder / "run")
    assert outcome.code == 0, outcome.err
    return folder, outcome.out, batches


def texts_of(batches: list[Any], *, labelled: bool) -> list[str]:
    tokenizer = build_tokenizer()
    return [
        tokenizer.decode(ids, skip_special_tokens=True)
        for rows, labels in batches
        for ids, label in zip(rows, labels, strict=True)
        if (label != -100) == labelled
    ]


def test_only_the_student_sees_rows_without_labels(run: Finished, case: Case) -> None:
    folder, _, batches = run
    parts = Assembly(Recipe.load(folder / "tiny.yaml"))
    train = sorted(parts.data.splits["train"]["text"])
    assert sorted(texts_of(batches["student"], labelled=True)) == sorted(train * 2)
    others = texts_of(batches["student"], labelled=False)
    more = (folder / "more.csv").read_text(encoding="utf-8").splitlines()[1:51]
    held_out = {text for split in ("validation", "test") for text in parts.data.splits[split]["text"]}
    assert set(more) <= set(others)
    assert not held_out & set(others)
    copies = set(others) - set(more)
    assert copies
    assert not copies & set(train)
    assert len(others) == 2 * (len(copies) + 50)
    for name in ("teacher", "control_same_start"):
        assert set(texts_of(batches[name], labelled=True)) == set(train)
        assert texts_of(batches[name], labelled=False) == []


def test_the_control_has_as_many_steps_as_the_student(run: Finished) -> None:
    folder, _, batches = run
    rows = json.loads((folder / "run" / "report.json").read_text(encoding="utf-8"))["data"]["rows"]
    steps = 2 * math.ceil((rows["train"] + rows["unlabelled"] + rows["augmented"]) / 16)
    assert len(batches["student"]) == len(batches["control_same_start"]) == steps
    assert len(batches["teacher"]) == 2 * math.ceil(rows["train"] / 16) < steps


def test_the_report_counts_the_rows_that_were_trained_on(run: Finished) -> None:
    folder, printed, batches = run
    rows = json.loads((folder / "run" / "report.json").read_text(encoding="utf-8"))["data"]["rows"]
    more = (folder / "more.csv").read_text(encoding="utf-8").splitlines()[1:51]
    others = texts_of(batches["student"], labelled=False)
    assert rows["unlabelled"] == 50
    assert rows["augmented"] == len(set(others) - set(more)) == len(others) / 2 - 50
    assert rows["train"] == len(texts_of(batches["student"], labelled=True)) / 2
    assert f"augmented: {rows['augmented']} copies" in printed
    assert f"unlabelled 50, augmented up to {2 * rows['train']}; 3 left out (unlabelled, in validation" in printed
    page = (folder / "run" / "report.html").read_text(encoding="utf-8")
    assert "trained on the same labelled rows for the same steps" in page
    for name in ("unlabelled", "augmented"):
        assert f"<dt>Rows, {name}</dt><dd>{rows[name]}</dd>" in page


def test_a_later_process_sees_the_same_rows(run: Finished, tmp_path: Path) -> None:
    folder, _, batches = run
    parts = Assembly(Recipe.load(folder / "run" / "recipe.yaml"))
    teacher = parts.load_saved(folder / "run" / "teacher")
    rows, augmented = parts.student_rows(teacher, parts.copies(teacher), tmp_path)
    seen = {(tuple(ids), label) for ids, label in zip(rows["input_ids"], rows["labels"], strict=True)}
    pad = build_tokenizer().pad_token_id
    trained = {
        (tuple(i for i in ids if i != pad), label)
        for group, labels in batches["student"]
        for ids, label in zip(group, labels, strict=True)
    }
    assert seen == trained
    assert augmented == json.loads((folder / "run" / "results" / "distill.json").read_text("utf-8"))["augmented"]


def test_other_copies_need_no_other_teacher() -> None:
    assert first_stage("task.augment.copies") == first_stage("task.unlabelled.dataset") == "distill"
    assert first_stage("task.max_length") == FIRST_STAGE["task"] == "teach"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task__augment": {"copies": 1, "methods": ["mask"]}}, "The teacher's tokenizer ("),
        (
            {"task__augment": AUGMENT, "objectives": {"task_loss": {}}, "control": False},
            "No objective learns from it (task_loss)",
        ),
        ({"task__unlabelled": "MORE", "objectives": {"task_loss": {}}, "control": False}, "rows of task.unlabelled"),
        ({"task__unlabelled": "PLAIN"}, "more.txt' has no column 'words'"),
    ],
)
def test_what_cannot_be_is_refused_before_training(
    case: Case, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    files = {"MORE": write_texts(tmp_path / "more.csv", 3), "PLAIN": tmp_path / "more.txt"}
    files["PLAIN"].write_text("the plot was good\n", encoding="utf-8")
    named = {key: str(files.get(value, value)) for key, value in changes.items() if key == "task__unlabelled"}
    recipe = case.recipe(tmp_path, **{**changes, **named})
    outcome = command("check", recipe)
    assert outcome.code == 1
    assert said in outcome.err
    assert "Traceback" not in outcome.err


def test_a_checkpoint_that_fills_no_masks_is_refused(case: Case, tmp_path: Path) -> None:
    model = str(save_checkpoint(tmp_path / "classifier", head=True))
    augment = {"copies": 1, "methods": ["masked_lm"], "model": model}
    outcome = command("check", case.recipe(tmp_path, task__augment=augment))
    assert outcome.code == 1
    assert "It has no head for that: cls.predictions" in outcome.err
    outcome = command("check", case.recipe(tmp_path, task__augment={**augment, "model": str(case.model)}))
    assert "no mask token" in outcome.err
