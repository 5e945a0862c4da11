"""Runs whose teacher is given: as an adapter of another model, in fewer bits, or with too many logits to store."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import TRAINING, Case, Finished, command
from transformers import AutoModelForSequenceClassification

from distil_nlp.teachers import ModelTeacher
from distil_nlp.training import DistillationTrainer
from distil_nlp.weights import is_quantized

SHORT = {"control": ["same_start"], "export": None, "training": {**TRAINING, "max_steps": 6}}


class FirstStep(NamedTuple):
    """What was in a run's first step with a teacher."""

    guide: torch.dtype
    quantized: tuple[bool, bool]  # teacher, student
    start: dict[str, torch.Tensor]


@pytest.fixture
def first_step(monkeypatch: pytest.MonkeyPatch) -> list[FirstStep]:
    seen: list[FirstStep] = []
    compute_loss = DistillationTrainer.compute_loss

    def watched(self: DistillationTrainer, model: Any, *args: Any, **kwargs: Any) -> Any:
        if self.teacher is not None and not seen:
            assert isinstance(self.teacher, ModelTeacher)
            guide, start = self.teacher.model, {name: tensor.clone() for name, tensor in model.state_dict().items()}
            seen.append(FirstStep(guide.dtype, (is_quantized(guide), is_quantized(model)), start))
        return compute_loss(self, model, *args, **kwargs)

    monkeypatch.setattr(DistillationTrainer, "compute_loss", watched)
    return seen


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_an_adapter_is_merged_into_its_base(case: Case, finished: Finished, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = finished.folder / "teacher"
    model = AutoModelForSequenceClassification.from_pretrained(base)
    adapter = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    added = {}
    with torch.no_grad():
        for number, layer in enumerate(model.bert.encoder.layer):
            query = layer.attention.self.query
            query.lora_B.default.weight.normal_(std=0.02)
            change = query.lora_B.default.weight @ query.lora_A.default.weight * query.scaling["default"]
            added[f"bert.encoder.layer.{number}.attention.self.query.weight"] = change
    adapter.save_pretrained(tmp_path / "adapter")
    recipe = case.recipe(tmp_path, teacher={"model": str(tmp_path / "adapter")}, **SHORT)
    outcome = command("run", recipe, "--output-dir", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    before, got = weights(base), weights(tmp_path / "run" / "teacher")
    assert got.keys() == before.keys()
    for name, tensor in got.items():
        torch.testing.assert_close(tensor, before[name] + added.get(name, 0.0))
    assert not (tmp_path / "run" / "teacher" / "adapter_config.json").exists()
    moved = {"model": str(tmp_path / "adapter"), "base": str(case.model)}
    outcome = command("check", case.recipe(tmp_path / "other", teacher=moved, **SHORT))  # without the trained head
    assert outcome.code == 1
    assert "is neither in its base nor in the adapter" in outcome.err
    refused = case.recipe(tmp_path / "student", student={"model": str(tmp_path / "adapter")}, control="pretrained")
    assert "Only a teacher can be one." in command("check", refused).err


def test_a_teacher_that_was_fine_tuned_here_teaches_in_16_bits(
    case: Case, finished: Finished, tmp_path: Path, first_step: list[FirstStep]
) -> None:
    run = tmp_path / "run"
    outcome = command("run", case.recipe(tmp_path, teacher__dtype="bfloat16", **SHORT), "--output-dir", run)
    assert outcome.code == 0, outcome.err
    [(guide, _, start)] = first_step
    assert guide == torch.bfloat16
    assert {tensor.dtype for tensor in start.values() if tensor.is_floating_point()} == {torch.float32}
    exact = weights(run / "teacher")
    assert all(torch.equal(tensor, weights(finished.folder / "teacher")[name]) for name, tensor in exact.items())
    names = [name for name in start if ".layer.0." in name]
    assert names
    assert all(torch.equal(start[name], exact[name.replace(".layer.0.", ".layer.1.")]) for name in names)


def test_a_quantized_teacher_guides_a_student_of_its_exact_layers(
    case: Case, finished: Finished, tmp_path: Path, first_step: list[FirstStep]
) -> None:
    pytest.importorskip("torchao", reason="torchao, which quantizes teachers, is not installed")
    run, teacher = tmp_path / "run", {"model": str(finished.folder / "teacher"), "quantization": "int8"}
    outcome = command("run", case.recipe(tmp_path, teacher=teacher, **SHORT), "--output-dir", run)
    assert outcome.code == 0, outcome.err
    [(_, quantized, start)] = first_step
    assert quantized == (True, False)
    exact = weights(run / "teacher")
    assert all(torch.equal(tensor, weights(finished.folder / "teacher")[name]) for name, tensor in exact.items())
    names = [name for name in start if ".layer.0." in name]
    assert names
    assert all(torch.equal(start[name], exact[name.replace(".layer.0.", ".layer.1.")]) for name in names)
    rows = [
        {row["name"]: row for row in json.loads((each / "report.json").read_text("utf-8"))["rows"]}
        for each in (run, finished.folder)
    ]
    ours, theirs = (row["teacher"] for row in rows)
    assert ours["size_mb"] < 0.8 * theirs["size_mb"]
    assert ours["parameters"] == theirs["parameters"]
    assert ours["metrics"]["accuracy"] == pytest.approx(theirs["metrics"]["accuracy"], abs=0.03)


@pytest.mark.parametrize(
    ("method", "module"), [("int8", "torchao.quantization"), ("nf4", "bitsandbytes.nn")], ids=["int8", "nf4"]
)
def test_quantization_without_its_package_is_found_by_the_check(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, module: str
) -> None:
    extra = module.partition(".")[0]
    monkeypatch.setitem(sys.modules, extra, None)
    monkeypatch.setitem(sys.modules, module, None)
    outcome = command("check", case.recipe(tmp_path, teacher__quantization=method))
    assert outcome.code == 1
    assert f"pip install 'distil_nlp[{extra}]'" in outcome.err


@pytest.mark.parametrize(
    ("store", "objectives", "words"),
    [
        ({"top_k": 2}, {"logits_kl": {}}, ["top_k=2", "2 outputs"]),
        ({"top_k": 1}, {"logits_mse": {}, "task_loss": {}}, ["top_k", "logits_mse would compare all of them"]),
        ({"top_k": 1, "dtype": "int8"}, {"hidden_states": {}}, []),
        ({"top_k": 1}, {"logits_kl": {}}, []),
        ({}, {"logits_mse": {}}, []),
    ],
)
def test_a_store_that_cannot_hold_what_is_needed_is_found_by_the_check(
    case: Case, tmp_path: Path, store: dict[str, Any], objectives: dict[str, Any], words: list[str]
) -> None:
    folder = tmp_path / "outputs"
    recipe = case.recipe(tmp_path, teacher__store={**store, "folder": str(folder)}, objectives=objectives)
    outcome = command("check", recipe)
    assert outcome.code == bool(words), outcome.err
    for word in words:
        assert word in outcome.err
    assert "Traceback" not in outcome.err
    assert not folder.exists()
