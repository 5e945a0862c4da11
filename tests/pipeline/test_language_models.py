"""Whole runs of language models by the command line: masked and causal ones, tiny."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny_language import decoder_tokenizer, encoder_tokenizer, texts
from tiny_models import tiny_model
from tiny_run import STAGES, TRAINING, Outcome, command
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from distil_nlp.build import Assembly
from distil_nlp.export import generate, open_onnx
from distil_nlp.recipe import Recipe

ARTEFACTS = ("teacher", "student", "control_pretrained", "onnx", "onnx_int8")


def write_texts(folder: Path, columns: tuple[str, ...]) -> Path:
    rows = [dict(zip(columns, text.split(" and ", len(columns) - 1), strict=False)) for text in texts(400, seed=3)]
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if len(row) == len(columns)), encoding="utf-8")
    return path


def write_recipe(folder: Path, task: dict[str, Any], model: Path, **sections: Any) -> Path:
    recipe = {
        "seed": 7,
        "task": {"split": {"train": 0.6, "validation": 0.2, "test": 0.2}, **task},
        "teacher": {"model": str(model), "fine_tune": {"num_train_epochs": 14, **TRAINING, "learning_rate": 3e-3}},
        "student": {"num_layers": 2},
        "objectives": {"task_loss": {"weight": 0.5}, "logits_kl": {"weight": 0.5}, "hidden_states": {}},
        "training": {"num_train_epochs": 2, **TRAINING},
        "control": True,
        "evaluation": {"batch_size": 32, "bootstrap_samples": 200},
        "export": {"backend": "native", "target": "avx2", "max_metric_drop": 0.3},
        "bench": {"batch_sizes": [1], "sequence_length": 8, "new_tokens": 4, "repeats": 2, "threads": [1]},
        **sections,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def run(folder: Path, recipe: Path) -> tuple[Outcome, dict[str, Any]]:
    outcome = command("run", recipe, "--output-dir", folder / "run")
    assert outcome.code == 0, outcome.err
    return outcome, json.loads((folder / "run" / "report.json").read_text(encoding="utf-8"))


def rows_of(report: dict[str, Any]) -> dict[str, Any]:
    return {row["name"]: row for row in report["rows"]}


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked")
    tokenizer = encoder_tokenizer()
    tiny_model("bert", "masked", vocab_size=len(tokenizer), initializer_range=0.1).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    task = {"name": "fill-mask", "dataset": str(write_texts(folder, ("text",))), "max_length": 32, "pack": True}
    run(folder, write_recipe(folder, task, folder / "model"))
    return folder


def test_a_masked_model_is_distilled_and_exported(masked: Path) -> None:
    report = json.loads((masked / "run" / "report.json").read_text(encoding="utf-8"))
    rows = rows_of(report)
    assert set(rows) == set(ARTEFACTS)
    assert (report["metric"], report["lower_is_better"]) == ("perplexity", True)
    teacher, student = rows["teacher"], rows["student"]
    assert 1 < teacher["metrics"]["perplexity"] < 20  # of 113 tokens
    assert teacher["metrics"]["masked_accuracy"] > 0.3
    assert student["retention"] == pytest.approx(teacher["metrics"]["perplexity"] / student["metrics"]["perplexity"])
    assert rows["onnx"]["metrics"]["perplexity"] == pytest.approx(student["metrics"]["perplexity"], rel=1e-4)
    assert rows["onnx_int8"]["metrics"]["perplexity"] < 1.3 * student["metrics"]["perplexity"]
    assert all(
        row["interval"]["low"] <= row["metrics"]["perplexity"] <= row["interval"]["high"] for row in rows.values()
    )
    assert "lower is better" in report["verdict"][0]
    gain = report["gain_over_control"]["control_pretrained"]
    assert not gain["points"]
    assert gain["difference"] == pytest.approx(
        student["metrics"]["perplexity"] - rows["control_pretrained"]["metrics"]["perplexity"]
    )
    assert not any(row["writing"] for row in rows.values())


def test_the_masked_scores_are_those_of_the_saved_model(masked: Path) -> None:
    parts = Assembly(Recipe.load(masked / "tiny.yaml"))
    model = AutoModelForMaskedLM.from_pretrained(masked / "run" / "student").eval()
    collator, cost, count = parts.task.collator(parts.tokenizer, train=False), 0.0, 0
    for row in parts.rows["test"]:
        batch = collator([row])
        with torch.no_grad():
            logits = model(batch["input_ids"]).logits[0]
        for place, label in enumerate(batch["labels"][0].tolist()):
            if label != -100:
                cost, count = cost - float(torch.log_softmax(logits[place], -1)[label]), count + 1
    report = json.loads((masked / "run" / "report.json").read_text(encoding="utf-8"))
    assert rows_of(report)["student"]["metrics"]["perplexity"] == pytest.approx(math.exp(cost / count), rel=1e-4)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal model that has learned its texts already: a teacher without fine-tuning."""
    folder = tmp_path_factory.mktemp("taught")
    tokenizer = decoder_tokenizer()
    model = tiny_model(
        "llama", "next_token", vocab_size=len(tokenizer), eos_token_id=0, pad_token_id=0, bos_token_id=None
    )
    optimizer = torch.optim.AdamW(model.train().parameters(), 6e-3)
    batch = tokenizer([f"{text}<|end|>" for text in texts(300, seed=5)], padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    for step in range(60):
        rows = torch.arange(step % 6, 300, 6)
        model(batch["input_ids"][rows], batch["attention_mask"][rows], labels=labels[rows]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


def test_a_causal_model_is_distilled_as_it_is_and_written_with(taught: Path, tmp_path: Path) -> None:
    data = write_texts(tmp_path, ("prompt", "completion"))
    columns = {"prompt": "prompt", "completion": "completion", "separator": " and "}
    task = {"name": "text-generation", "dataset": str(data), "max_length": 48, **columns}
    recipe = write_recipe(tmp_path, task, taught / "model", teacher={"model": str(taught / "model")})
    outcome, report = run(tmp_path, recipe)
    assert [stage for stage in STAGES if f"\n{stage}\n" in outcome.out] == list(STAGES)
    rows = rows_of(report)
    assert set(rows) == set(ARTEFACTS)
    assert rows["teacher"]["metrics"]["perplexity"] < 15  # of 360 tokens
    assert rows["onnx"]["metrics"]["perplexity"] == pytest.approx(rows["student"]["metrics"]["perplexity"], rel=1e-4)
    for name in ("teacher", "student", "onnx", "onnx_int8"):
        (speed,) = rows[name]["writing"]
        assert (speed["batch_size"], speed["prompt_tokens"], speed["new_tokens"]) == (1, 8, 4)
        assert rows[name]["tokens_per_second"] == speed["tokens_per_second"]
    assert not rows["control_pretrained"]["writing"]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Tokens per s" in page
    assert "Down and to the left is better" in page
    _check_teacher_is_the_checkpoint(taught / "model", tmp_path / "run" / "teacher")
    _check_writing(tmp_path / "run")


def _check_teacher_is_the_checkpoint(given: Path, teacher: Path) -> None:
    """Its head is kept, and the control starts from its layers."""
    states = [AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (given, teacher)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def _check_writing(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "student", padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder / "student")
    prompts = tokenizer(["the dog barks at 7 and", "the"], padding=True, return_tensors="pt")
    expected = model.generate(**prompts, max_new_tokens=12, do_sample=False)[:, prompts["input_ids"].shape[1] :]
    for name in ("model.onnx", "model_quantized.onnx"):
        written = generate(
            open_onnx(folder / "onnx" / name),
            {key: value.numpy() for key, value in prompts.items()},
            max_new_tokens=12,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        if name == "model.onnx":
            np.testing.assert_array_equal(written, expected)
        assert written.shape[0] == 2


def test_the_control_starts_from_the_layers_of_the_teacher_itself(taught: Path, tmp_path: Path) -> None:
    task = {"name": "text-generation", "dataset": str(write_texts(tmp_path, ("text",))), "max_length": 48}
    recipe = Recipe.load(write_recipe(tmp_path, task, taught / "model", teacher={"model": str(taught / "model")}))
    assert recipe.control == ("pretrained",)
    start = Assembly(recipe).control("pretrained", AutoModelForCausalLM.from_pretrained(taught / "model"))
    given = AutoModelForCausalLM.from_pretrained(taught / "model").state_dict()
    for name, weight in start.state_dict().items():
        source = name.replace("layers.1.", "layers.3.").replace("layers.0.", "layers.1.")  # blocks 2 and 4
        assert torch.equal(weight, given[source])


def test_a_teacher_that_writes_nothing_sensible_is_refused(tmp_path: Path) -> None:
    tokenizer = decoder_tokenizer()
    tiny_model("gpt2", "next_token", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    task = {"name": "text-generation", "dataset": str(write_texts(tmp_path, ("text",))), "max_length": 48}
    recipe = write_recipe(tmp_path, task, tmp_path / "model", teacher={"model": str(tmp_path / "model")})
    outcome = command("check", recipe, "--output-dir", tmp_path / "run")
    assert outcome.code == 1
    assert "A teacher must know the task" in outcome.err
    assert "perplexity" in outcome.err


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("export={backend: native, cache: true}", "without a cache"),
        ("task.pack=true", "joins plain texts"),
        ("bench.sequence_length=61", "bench.new_tokens"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(
    taught: Path, tmp_path: Path, override: str, said: str
) -> None:
    data = write_texts(tmp_path, ("prompt", "completion"))
    task = {
        "name": "text-generation",
        "dataset": str(data),
        "prompt": "prompt",
        "completion": "completion",
        "max_length": 48,
    }
    recipe = write_recipe(tmp_path, task, taught / "model", teacher={"model": str(taught / "model")})
    outcome = command("check", recipe, override, "--output-dir", tmp_path / "run")
    assert outcome.code == 1
    assert said in outcome.err
