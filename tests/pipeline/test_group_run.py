"""A reranker from data to report: passages of one query side by side in training, and nowhere in the way."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_run import FILLERS, RECIPE, TRAINING, Case, command

from distil_nlp.build import Assembly
from distil_nlp.recipe import Recipe
from distil_nlp.training import DistillationTrainer

ROOM, TERMS = 8, ("margin_mse", "task_loss")


def passages(dice: random.Random, query: int) -> list[dict[str, Any]]:
    rows = []
    for _ in range(dice.choice((1, 2, 3, 4))):
        told = [dice.choice(("good", "bad", "film")) for _ in range(2)]
        words = [*dice.choices(FILLERS, k=dice.randint(3, 6)), *told]
        dice.shuffle(words)
        relevance = told.count("good") - told.count("bad") + dice.gauss(0, 0.1)
        rows.append({"qid": f"q{query}", "passage": " ".join(words), "relevance": relevance})
    return rows


@pytest.fixture
def recipe(case: Case, tmp_path: Path) -> Path:
    dice = random.Random(3)
    rows = [row for query in range(110) for row in passages(dice, query)]
    dice.shuffle(rows)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = {"name": "text-classification", "problem": "regression", "group": "qid", "text": "passage"}
    values = copy.deepcopy(RECIPE) | {
        "task": {**task, "label": "relevance", "dataset": str(tmp_path / "rows.jsonl"), "max_length": 24},
        "teacher": {
            "model": str(case.model),
            "fine_tune": {**TRAINING, "max_steps": 40, "eval_strategy": "epoch"},
            "store": {},
        },
        "objectives": {name: {} for name in TERMS},
        "training": {**TRAINING, "max_steps": 12, "per_device_train_batch_size": ROOM},
        "control": ["same_start"],
        "export": {"backend": "native", "target": "avx2", "quantization": None},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def test_a_run_by_groups(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[dict[str, torch.Tensor]]] = defaultdict(list)
    train_step = DistillationTrainer.training_step

    def noted(trainer: DistillationTrainer, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        name = Path(str(trainer.args.output_dir)).name
        seen[name].append({key: value.clone() for key, value in inputs.items()})
        return train_step(trainer, model, inputs, *args, **kwargs)

    monkeypatch.setattr(DistillationTrainer, "training_step", noted)
    outcome = command("run", recipe, "--output-dir", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    figures = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in figures["rows"]] == ["teacher", "student", "control_same_start", "onnx"]
    sizes = Counter(Assembly(Recipe.load(recipe)).data.splits["train"]["group"][:])
    assert {1, 2, 3, 4} == set(sizes.values())
    assert set(seen) == {"teacher", "student", "control_same_start"}
    for name, batches in seen.items():
        room = ROOM if name != "teacher" else TRAINING["per_device_train_batch_size"]
        for batch in batches:
            assert len(batch["labels"]) <= room
            found = batch["group"].tolist()
            assert {group: found.count(group) for group in found} == {group: sizes[group] for group in found}
    for ours, theirs in zip(seen["student"], seen["control_same_start"], strict=True):
        assert ours["group"].tolist() == theirs["group"].tolist()
        assert torch.equal(ours["input_ids"], theirs["input_ids"])


def test_the_logged_term_is_that_of_loops_over_groups(recipe: Path, tmp_path: Path) -> None:
    """Of the first step, all of its micro-batches together, against both models called on one row at a time."""
    overrides = ["teacher.store=null", "training.gradient_accumulation_steps=3", "training.max_steps=1"]
    parts = Assembly(Recipe.load(recipe, [*overrides, "training.logging_steps=1"]))
    torch.manual_seed(5)
    teacher = parts.pretrained().eval()
    student = parts.student(teacher)
    start, batches = copy.deepcopy(student).eval(), []
    student.config.hidden_dropout_prob = 0.0
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trainer = parts.trainer(
        student, arguments=parts.recipe.training, output_dir=tmp_path, teacher=teacher, **parts.loss(student, teacher)
    )
    collate = trainer.data_collator

    class Noted:
        columns = collate.columns

        def __call__(self, rows: Any) -> Any:
            batches.append(rows)
            return collate(rows)

    trainer.data_collator = Noted()
    trainer.train()
    values = []
    for rows in batches[:3]:
        with torch.no_grad():
            gaps = [
                float(
                    start(input_ids=torch.tensor([row["input_ids"]])).logits[0, 0]
                    - teacher(input_ids=torch.tensor([row["input_ids"]])).logits[0, 0]
                )
                for row in rows
            ]
        for i, row in enumerate(rows):
            others = [j for j, other in enumerate(rows) if j != i and other["group"] == row["group"]]
            values.append(sum((gaps[i] - gaps[j]) ** 2 for j in others) / max(len(others), 1))
    expected = sum(values) / len(values)
    assert expected > 0
    assert trainer.state.log_history[0]["margin_mse"] == pytest.approx(expected, rel=1e-4)
