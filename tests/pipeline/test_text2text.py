"""A whole run of an encoder-decoder by the command line, under word-level and sequence-level distillation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from tiny_run import Outcome, command
from tiny_seq2seq import build_tokenizer, tiny_seq2seq, write_rows
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from distil_nlp.build import Assembly
from distil_nlp.data.tasks import text2text_generation
from distil_nlp.errors import ModelError, RecipeError
from distil_nlp.export import find_graphs, generate, open_onnx
from distil_nlp.recipe import Recipe
from distil_nlp.training import DistillationTrainer

TRAINED = ("teacher", "student", "control_pretrained")
TRAINING = {"learning_rate": 5.0e-3, "per_device_train_batch_size": 16, "logging_steps": 5, "disable_tqdm": True}


BART = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 1, "forced_eos_token_id": 1}


def recipe_of(folder: Path, family: str = "t5", **config: Any) -> dict[str, Any]:
    """A T5, or another model, that learns to say how a film was liked."""
    if not (folder / "rows.jsonl").is_file():
        tiny_seq2seq(family, vocab_size=len(build_tokenizer()), **config).save_pretrained(folder / "model")
        build_tokenizer().save_pretrained(folder / "model")
        write_rows(folder / "rows.jsonl")
    return {
        "name": "tiny",
        "seed": 7,
        "task": {
            "name": "text2text-generation",
            "dataset": str(folder / "rows.jsonl"),
            "source": "document",
            "target": "summary",
            "prefix": "review : ",
            "max_length": 16,
            "max_target_length": 8,
            "targets": "teacher",
            "target_beams": 2,
            "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
        },
        "teacher": {"model": str(folder / "model"), "fine_tune": {"num_train_epochs": 4, **TRAINING}},
        "student": {"num_layers": 1},
        "objectives": {"task_loss": {"weight": 0.5}, "logits_kl": {"weight": 0.5, "temperature": 2.0}},
        "training": {"max_steps": 12, **TRAINING},
        "control": True,
        "evaluation": {"batch_size": 32, "bootstrap_samples": 200},
        "bench": {"batch_sizes": [1], "sequence_length": 8, "new_tokens": 4, "repeats": 2, "threads": [1]},
    }


def write(path: Path, values: dict[str, Any], **changes: Any) -> Path:
    for dotted, value in changes.items():
        section, _, key = dotted.partition("__")
        (values[section] if key else values).__setitem__(key or section, value)
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


class Finished(NamedTuple):
    """A run, and the labels that each model was trained on, by what was read."""

    recipe: Path
    folder: Path
    outcome: Outcome
    labels: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("text2text")
    recipe, labels, tokenizer = write(folder / "tiny.yaml", recipe_of(folder)), {}, build_tokenizer()
    compute_loss = DistillationTrainer.compute_loss

    def watched(self: Any, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if model.training:
            seen = labels.setdefault(Path(self.args.output_dir).name, {})
            sources = tokenizer.batch_decode(inputs["input_ids"], skip_special_tokens=True)
            seen |= zip(sources, tokenizer.batch_decode(inputs["labels"].clamp(min=0)), strict=True)
        return compute_loss(self, model, inputs, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistillationTrainer, "compute_loss", watched)
        outcome = command("run", recipe, "--output-dir", folder / "run")
    assert outcome.code == 0, outcome.err
    return Finished(recipe, folder / "run", outcome, labels)


def report_of(folder: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return figures


def test_it_leaves_models_a_report_and_the_targets(finished: Finished) -> None:
    names = {path.name for path in finished.folder.iterdir()}
    files = {"recipe.yaml", "environment.json", "report.json", "report.html", "report.svg", "teacher_targets.jsonl"}
    assert names == files | {*TRAINED, "results", ".lock"}
    student = AutoModelForSeq2SeqLM.from_pretrained(finished.folder / "student")
    assert (student.config.num_layers, student.config.num_decoder_layers) == (1, 1)
    figures = report_of(finished.folder)
    rows = {row["name"]: row for row in figures["rows"]}
    assert list(rows) == list(TRAINED)
    assert rows["teacher"]["metrics"]["rouge_l"] > 0.8
    assert set(rows["student"]["metrics"]) == {"rouge_l", "rouge_1", "rouge_2", "sequence_accuracy"}
    for name in ("teacher", "student"):
        assert rows[name]["latency_ms"]["p50"] > 0
        assert (rows[name]["writing"][0]["prompt_tokens"], rows[name]["writing"][0]["new_tokens"]) == (8, 4)
    assert figures["metric"] == "rouge_l"
    gain = rows["student"]["metrics"]["rouge_l"] - rows["control_pretrained"]["metrics"]["rouge_l"]
    assert figures["gain_over_control"]["control_pretrained"]["difference"] == pytest.approx(gain)


@pytest.mark.parametrize("name", TRAINED[:2])
def test_the_scores_are_those_of_the_saved_models(finished: Finished, name: str) -> None:
    """One row at a time, by transformers alone."""
    model = AutoModelForSeq2SeqLM.from_pretrained(finished.folder / name).eval()
    tokenizer = AutoTokenizer.from_pretrained(finished.folder / name)
    hits = []
    for row in Assembly(Recipe.load(finished.recipe)).data.splits["test"]:
        ids = tokenizer(f"review : {row['source']}", truncation=True, max_length=16, return_tensors="pt").input_ids
        made = model.generate(ids, max_new_tokens=8, do_sample=False)[0]
        hits.append(tokenizer.decode(made, skip_special_tokens=True) == row["target"])
    row = next(row for row in report_of(finished.folder)["rows"] if row["name"] == name)
    assert row["metrics"]["sequence_accuracy"] == pytest.approx(sum(hits) / len(hits))


def test_the_student_learns_what_its_teacher_writes_and_the_control_what_is_right(finished: Finished) -> None:
    teacher = AutoModelForSeq2SeqLM.from_pretrained(finished.folder / "teacher").eval()
    tokenizer = AutoTokenizer.from_pretrained(finished.folder / "teacher")
    train = Assembly(Recipe.load(finished.recipe)).data.splits["train"]
    right, written = {}, {}
    for row in train.select(range(0, len(train), 4)):
        source = f"review : {row['source']}"
        ids = tokenizer(source, truncation=True, max_length=16)["input_ids"]
        source = tokenizer.decode(ids, skip_special_tokens=True)
        right[source] = f"{row['target']} </s>"
        written[source] = tokenizer.decode(teacher.generate(torch.tensor([ids]), max_new_tokens=8, num_beams=2)[0, 1:])
    assert right != written

    def unpadded(seen: dict[str, str]) -> dict[str, str]:
        return {source: target.partition(" <pad>")[0] for source, target in seen.items()}

    student, control = unpadded(finished.labels["student"]), unpadded(finished.labels["control_pretrained"])
    assert student.keys() == control.keys() >= right.keys()
    assert {source: student[source] for source in written} == written
    assert {source: control[source] for source in right} == right


def test_a_run_that_goes_on_does_not_ask_the_teacher_again(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = (finished.folder / "teacher_targets.jsonl").read_bytes()
    asked: list[Any] = []
    monkeypatch.setattr(text2text_generation, "writer", lambda model, **how: asked.append)
    assembly = Assembly(Recipe.load(finished.recipe))
    teacher = assembly.load_saved(finished.folder / "teacher")
    rows = assembly.distilled_rows(teacher, finished.folder)
    assert len(rows) == len(kept.splitlines()) - 1
    assert asked == []
    assert (finished.folder / "teacher_targets.jsonl").read_bytes() == kept


def test_it_can_be_checked_and_scored_by_likelihood(finished: Finished, tmp_path: Path) -> None:
    values = recipe_of(finished.folder.parent)
    recipe = write(tmp_path / "checked.yaml", values, task__metrics=["perplexity"], task__targets="data")
    outcome = command("check", recipe)
    assert outcome.code == 0, outcome.err
    assert "task_loss" in outcome.out
    assembly = Assembly(Recipe.load(recipe))
    teacher = assembly.load_saved(finished.folder / "teacher")
    assert (
        1 < assembly.score(teacher, "test")["perplexity"] < assembly.score(assembly.pretrained(), "test")["perplexity"]
    )


@pytest.mark.parametrize("objective", ["hidden_states", "attentions"])
def test_what_cannot_be_distilled_is_refused_before_training(
    finished: Finished, tmp_path: Path, objective: str
) -> None:
    recipe = write(tmp_path / "tiny.yaml", recipe_of(finished.folder.parent), objectives={objective: {}})
    outcome = command("check", recipe)
    assert outcome.code == 1
    assert "its encoder's and its decoder's" in outcome.err


def test_what_does_not_fit_is_refused_with_its_line(finished: Finished, tmp_path: Path) -> None:
    values = recipe_of(finished.folder.parent)
    for said, beams, export in (("one for each part", 1, {"backend": "native"}), ("likeliest token each time", 4, {})):
        task = {**values["task"], "generate": {"num_beams": beams}}
        with pytest.raises(RecipeError, match=rf"(?s)tiny.yaml:\d+:\d+.*{said}"):
            Recipe.load(write(tmp_path / "tiny.yaml", {**values, "task": task, "export": export}))
        assert Recipe.load(write(tmp_path / "tiny.yaml", {**values, "task": task, "export": None})).export is None
    assert Recipe.load(write(tmp_path / "tiny.yaml", {**values, "export": {"cache": False}})).export is not None
    with pytest.raises(RecipeError, match="rouge_l"):
        _ = Assembly(Recipe.load(write(tmp_path / "tiny.yaml", values, task__metrics=["accuracy"]))).metrics
    with pytest.raises(ModelError, match="max_target_length 80"):
        bart = tiny_seq2seq("bart", vocab_size=len(build_tokenizer()), max_position_embeddings=64)
        bart.save_pretrained(tmp_path / "bart")
        build_tokenizer().save_pretrained(tmp_path / "bart")
        recipe = write(tmp_path / "tiny.yaml", values, task__max_target_length=80, task__metrics=[])
        Assembly(Recipe.load(recipe, [f"teacher.model={tmp_path / 'bart'}"])).pretrained()


def test_what_exports_cannot_do_is_refused_before_training(finished: Finished, tmp_path: Path) -> None:
    model = tiny_seq2seq("t5", vocab_size=len(build_tokenizer()))
    model.generation_config.encoder_no_repeat_ngram_size = 3
    model.save_pretrained(tmp_path / "model")
    build_tokenizer().save_pretrained(tmp_path / "model")
    recipe = write(tmp_path / "tiny.yaml", recipe_of(finished.folder.parent), teacher__model=str(tmp_path / "model"))
    assert command("check", recipe).code == 0
    outcome = command("check", recipe, "export={}")
    assert outcome.code == 1
    assert "encoder_no_repeat_ngram_size = 3, which is not done in onnxruntime" in outcome.err


EXPORT = {"target": "avx2", "max_metric_drop": 0.5}


def check_exported(folder: Path) -> None:
    """The rows of the report agree with each other and with the files."""
    figures = report_of(folder)
    rows = {row["name"]: row for row in figures["rows"]}
    assert list(rows) == [*TRAINED, "onnx", "onnx_int8"]
    assert rows["onnx"]["metrics"] == rows["student"]["metrics"]
    for name, suffix in (("onnx", ""), ("onnx_int8", "_quantized")):
        files = [folder / "onnx" / f"{part}{suffix}.onnx" for part in ("encoder_model", "decoder_model_merged")]
        assert rows[name]["size_mb"] == sum(file.stat().st_size for file in files) / 1e6
        assert rows[name]["latency_ms"]["p50"] > 0
        assert (rows[name]["writing"][0]["prompt_tokens"], rows[name]["writing"][0]["new_tokens"]) == (8, 4)


def check_written(folder: Path, recipe: Path) -> None:
    """With the saved files alone, one row at a time, onnxruntime writes what transformers does."""
    model = AutoModelForSeq2SeqLM.from_pretrained(folder / "student").eval()
    tokenizer, graphs = AutoTokenizer.from_pretrained(folder / "onnx"), open_onnx(find_graphs(folder / "onnx"))
    texts = set()
    for row in Assembly(Recipe.load(recipe)).data.splits["test"]:
        read = tokenizer(f"review : {row['source']}", truncation=True, max_length=16, return_tensors="np")
        made = generate(graphs, read, max_new_tokens=8, eos_token_id=tokenizer.eos_token_id)
        expected = model.generate(torch.from_numpy(read["input_ids"]), max_new_tokens=8, do_sample=False)[0, 1:]
        assert made[0].tolist() == expected.tolist()
        texts.add(tokenizer.decode(made[0]))
    assert len(texts) > 1


@pytest.mark.slow
def test_the_student_is_exported_scored_and_timed(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISTIL_NLP_CACHE")
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    recipe = write(tmp_path / "tiny.yaml", recipe_of(finished.folder.parent), export=EXPORT)
    for stage in ("export", "bench", "report"):
        outcome = command(stage, recipe, "--output-dir", folder)
        assert outcome.code == 0, outcome.err
    check_exported(folder)
    check_written(folder, recipe)
    recipe = write(tmp_path / "likelihood.yaml", recipe_of(finished.folder.parent), task__metrics=["perplexity"])
    parts = Assembly(Recipe.load(recipe))
    exported, student = open_onnx(find_graphs(folder / "onnx")), parts.load_saved(folder / "student")
    outputs = [parts.batches(parts.rows["test"]).outputs(parts.forward(exported), parts.task.keep)]
    (scores,) = [parts.metrics(parts.predictions(each, "test"), parts.references("test")) for each in outputs]
    assert scores["perplexity"] == pytest.approx(parts.score(student, "test")["perplexity"], rel=1e-4)


@pytest.mark.slow
def test_a_whole_run_of_a_bart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISTIL_NLP_CACHE")
    values = recipe_of(tmp_path, "bart", init_std=0.1, **BART)
    values["teacher"]["fine_tune"]["num_train_epochs"] = 16
    recipe = write(tmp_path / "tiny.yaml", values, export=EXPORT, task__targets="data")
    outcome = command("run", recipe, "--output-dir", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    check_exported(tmp_path / "run")
    check_written(tmp_path / "run", recipe)
