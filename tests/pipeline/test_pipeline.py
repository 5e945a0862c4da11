"""A whole run by the command line, and each stage alone."""

import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import LABELS, RECIPE, STAGES, TRAINING, command, save_checkpoint
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distil_nlp.build import Assembly
from distil_nlp.recipe import Recipe

TRAINED = ("teacher", "student", "control_pretrained", "control_same_start")


def weights(folder):
    """Under today's names: early transformers 5 save a LayerNorm as TensorFlow's checkpoints had it."""
    state = load_file(folder / "model.safetensors")
    now = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    return {re.sub("LayerNorm.(gamma|beta)", lambda old: now[old[0]], name): state[name] for name in state}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def block(state, number):
    prefix = f"bert.encoder.layer.{number - 1}."
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def report_of(folder):
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def rows_of(folder):
    return {row["name"]: row for row in report_of(folder)["rows"]}


def test_a_run_leaves_what_it_promises_and_nothing_else(finished):
    names = {path.name for path in finished.folder.iterdir()}
    files = {"recipe.yaml", "environment.json", "report.json", "report.html", "report.svg"}
    assert names == files | {*TRAINED, "onnx", "results", ".lock"}
    assert not list(finished.folder.glob("checkpoints/*"))
    assert [path.name for path in finished.folder.rglob(".*")] == [".lock"]
    for name in TRAINED:
        model = AutoModelForSequenceClassification.from_pretrained(finished.folder / name)
        assert model.config.id2label == dict(enumerate(LABELS))
        assert model.config.num_hidden_layers == (4 if name == "teacher" else 2)
        assert AutoTokenizer.from_pretrained(finished.folder / name)("good film")["input_ids"]
    assert {"model.onnx", "model_quantized.onnx", "config.json", "tokenizer.json"} <= {
        path.name for path in (finished.folder / "onnx").iterdir()
    }
    found = json.loads((finished.folder / "environment.json").read_text(encoding="utf-8"))
    assert found["seed"] == RECIPE["seed"]
    assert found["torch"] == torch.__version__.split("+")[0] or found["torch"] == torch.__version__
    assert Recipe.load(finished.folder / "recipe.yaml") == Recipe.load(finished.recipe)


def test_the_run_prints_its_stages_and_the_table(finished):
    out = finished.outcome.out
    places = [out.index(f"\n{stage}\n") for stage in STAGES]
    assert places == sorted(places)
    assert "Control, same start" in out
    assert str(finished.folder / "report.html") in out
    for sentence in report_of(finished.folder)["verdict"]:
        assert sentence in out


@pytest.mark.parametrize("name", TRAINED)
def test_the_scores_are_those_of_the_saved_models(finished, name):
    """Each by a loop of its own: one row at a time, no padding, none of the library's code."""
    model = AutoModelForSequenceClassification.from_pretrained(finished.folder / name).eval()
    tokenizer = AutoTokenizer.from_pretrained(finished.folder / name)
    test = Assembly(Recipe.load(finished.recipe)).data.splits["test"]
    hits = []
    for row in test:
        with torch.inference_mode():
            logits = model(**tokenizer(row["text"], truncation=True, max_length=16, return_tensors="pt")).logits
        hits.append(int(logits.argmax()) == row["label"])
    scored = rows_of(finished.folder)[name]
    assert scored["metrics"]["accuracy"] == pytest.approx(sum(hits) / len(hits))
    assert scored["parameters"] == sum(p.numel() for p in model.parameters())


def test_the_figures_of_the_report_agree_with_each_other(finished):
    figures, rows = report_of(finished.folder), rows_of(finished.folder)
    assert list(rows) == [*TRAINED, "onnx", "onnx_int8"]
    teacher, student = rows["teacher"], rows["student"]
    for row in rows.values():
        assert row["retention"] == pytest.approx(row["metrics"]["accuracy"] / teacher["metrics"]["accuracy"])
        assert row["interval"]["low"] <= row["metrics"]["accuracy"] <= row["interval"]["high"]
        assert row["times_smaller"] == pytest.approx(teacher["size_mb"] / row["size_mb"])
    assert rows["onnx"]["metrics"] == student["metrics"]
    for name, file in (("onnx", "model.onnx"), ("onnx_int8", "model_quantized.onnx")):
        assert rows[name]["size_mb"] == pytest.approx((finished.folder / "onnx" / file).stat().st_size / 1e6)
    for name in ("teacher", "student", "onnx", "onnx_int8"):
        at = rows[name]["latency_ms"]
        assert (at["batch_size"], at["sequence_length"], at["threads"]) == (1, 8, 1)
        assert 0 < at["p50"] <= at["p95"]
        assert rows[name]["times_faster"] == pytest.approx(teacher["latency_ms"]["p50"] / at["p50"])
    gains = figures["gain_over_control"]
    for name in ("control_pretrained", "control_same_start"):
        gain, accuracy = gains[name], rows[name]["metrics"]["accuracy"]
        assert gain["difference"] == pytest.approx(student["metrics"]["accuracy"] - accuracy)
        assert gain["low"] <= gain["difference"] <= gain["high"]
        assert gain["beyond_noise"] == (gain["low"] > 0 or gain["high"] < 0)
    assert sum(figures["gain_split"].values()) == pytest.approx(gains["control_pretrained"]["difference"])
    assert figures["data"]["rows"] == {"train": 178, "validation": 54, "test": 68}
    assert figures["total_seconds"] == pytest.approx(sum(stage["seconds"] for stage in figures["cost"]))
    maps = {layers["name"]: layers["pairs"] for layers in figures["layer_maps"]}
    assert maps == {"hidden_states": [[1, 2], [2, 4]], "attentions": [[1, 2], [2, 4]]}


def test_the_curves_are_the_terms_that_were_asked_for(finished):
    curves = {(curve["run"], curve["term"]): curve for curve in report_of(finished.folder)["loss_curves"]}
    terms = [term for run, term in curves if run == "student"]
    assert terms == ["loss", *RECIPE["objectives"]]
    for place, total in enumerate(curves["student", "loss"]["values"]):
        parts = [curves["student", term]["values"][place] for term in RECIPE["objectives"]]
        assert total == pytest.approx(sum(parts), rel=1e-4)
        assert all(math.isfinite(part) for part in parts)
    assert [term for run, term in curves if run == "control_same_start"] == ["task_loss"]


def test_the_controls_see_the_students_batches_and_no_teacher(finished):
    student = finished.steps["student"]
    assert len(student) == RECIPE["training"]["max_steps"]
    assert all(step.teacher and step.objectives == list(RECIPE["objectives"]) for step in student)
    for name in ("control_pretrained", "control_same_start"):
        control = finished.steps[name]
        assert not any(step.teacher for step in control)
        assert all(step.objectives == ["task_loss"] for step in control)
        assert [step.input_ids for step in control] == [step.input_ids for step in student]


def test_the_report_page_stands_alone(finished):
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "Control, same start" in page
    for reference in ('src="http', "src='http", "<script src", '<link rel="stylesheet"', "url(http"):
        assert reference not in page


def test_stages_alone_give_the_student_of_a_whole_run(finished, tmp_path):
    folder = tmp_path / "alone"
    for stage in ("teach", "distill", "evaluate", "report"):
        outcome = command(stage, finished.recipe, "--output-dir", folder)
        assert outcome.code == 0, outcome.err
    for name in TRAINED:
        assert same(weights(folder / name), weights(finished.folder / name)), name
    alone, whole = rows_of(folder), rows_of(finished.folder)
    assert list(alone) == list(TRAINED)
    assert all(alone[name]["metrics"] == whole[name]["metrics"] for name in TRAINED)
    assert "Student" in outcome.out
    assert "latency was not measured" in outcome.out.lower()


@pytest.mark.parametrize(("stage", "needed"), [("distill", "teach"), ("evaluate", "teach"), ("report", "evaluate")])
def test_a_stage_that_comes_too_early_names_the_one_before_it(finished, tmp_path, stage, needed):
    outcome = command(stage, finished.recipe, "--output-dir", tmp_path / "early")
    assert outcome.code == 1
    assert f"distil-nlp {needed} RECIPE" in outcome.err
    assert "Traceback" not in outcome.err


def test_overrides_change_the_run_and_are_kept_with_it(finished, tmp_path):
    run = finished.copy(tmp_path / "run", without=STAGES[1:])
    overrides = ["training.max_steps=3", "objectives.logits_kl.temperature=8", "control=[same_start]"]
    outcome = command("distill", finished.recipe, *overrides, "--output-dir", run)
    assert outcome.code == 0, outcome.err
    assert json.loads((run / "results" / "distill.json").read_text(encoding="utf-8"))["steps"] == 3
    assert list(json.loads((run / "results" / "control.json").read_text(encoding="utf-8"))["controls"]) == [
        "control_same_start"
    ]
    saved = Recipe.load(run / "recipe.yaml")
    assert (saved.training["max_steps"], saved.objectives["logits_kl"]["temperature"]) == (3, 8)


def test_the_folder_is_named_after_the_recipe(case, tmp_path):
    outcome = command("teach", case.recipe(tmp_path, name="quick"))
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "runs" / "quick" / "teacher" / "model.safetensors").is_file()


def test_check_says_what_a_run_would_do_and_writes_nothing(case, tmp_path):
    recipe = case.recipe(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    outcome = command("check", recipe)
    assert outcome.code == 0, outcome.err
    said = dict(line.split(maxsplit=1) for line in outcome.out.splitlines() if line.strip())
    assert said["rows"] == "train 178, validation 54, test 68"
    assert said["labels"].startswith("negative, positive; the commonest alone is right in 0.6")
    assert "hidden_states: 1 <- 2, 2 <- 4" in outcome.out
    assert [term.split()[0] for term in said["terms"].split(", ")] == list(RECIPE["objectives"])
    teacher = sum(p.numel() for p in AutoModelForSequenceClassification.from_pretrained(case.model).parameters())
    assert said["parameters"].startswith(f"teacher {teacher:,}, student ")
    assert "MB" in said["memory"]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("what", "some"),
    [
        ("objectives", {"task_loss", "logits_kl", "hidden_states", "attentions"}),
        ("recipes", {"movie_sentiment"}),
        ("tasks", {"text-classification"}),
        ("metrics", {"accuracy", "f1"}),
        ("mappings", {"uniform", "last"}),
    ],
)
def test_list(what, some):
    outcome = command("list", what)
    assert outcome.code == 0
    assert some <= set(outcome.out.split())


def test_list_of_nothing_known_and_env():
    outcome = command("list", "objectivs")
    assert outcome.code == 1
    assert "Did you mean 'objectives'?" in outcome.err
    outcome = command("env")
    assert outcome.code == 0
    assert {"python", "torch", "transformers", "distil_nlp"} <= {line.split()[0] for line in outcome.out.splitlines()}


# A learning rate of zero leaves every model as it started.
STILL = {**TRAINING, "max_steps": 1, "learning_rate": 0.0, "weight_decay": 0.0}


def distilled(case, finished, folder, **changes):
    run = finished.copy(folder / "run", without=STAGES[1:])
    outcome = command("distill", case.recipe(folder, training=STILL, **changes), "--output-dir", run)
    assert outcome.code == 0, outcome.err
    return run


def test_a_student_starts_from_layers_of_the_teacher(case, finished, tmp_path):
    run = distilled(case, finished, tmp_path)
    teacher, student = weights(run / "teacher"), weights(run / "student")
    assert same(student, weights(run / "control_same_start"))
    assert same(block(student, 1), block(teacher, 2))
    assert same(block(student, 2), block(teacher, 4))
    assert torch.equal(student["classifier.weight"], teacher["classifier.weight"])
    control, pretrained = weights(run / "control_pretrained"), weights(case.model)
    assert same(block(control, 1), block(pretrained, 2))
    assert torch.equal(
        control["bert.embeddings.word_embeddings.weight"], pretrained["bert.embeddings.word_embeddings.weight"]
    )


def test_a_student_starts_from_layers_of_the_pretrained_checkpoint(case, finished, tmp_path):
    run = distilled(case, finished, tmp_path, student={"layers": [1, 3], "start": "pretrained"})
    student, pretrained = weights(run / "student"), weights(case.model)
    assert same(student, weights(run / "control_pretrained"))
    assert same(student, weights(run / "control_same_start"))
    assert same(block(student, 1), block(pretrained, 1))
    assert same(block(student, 2), block(pretrained, 3))


def test_a_student_can_be_a_checkpoint_and_so_is_its_control(case, finished, tmp_path):
    small = save_checkpoint(tmp_path / "small", seed=5, num_hidden_layers=1, hidden_size=16)
    run = distilled(case, finished, tmp_path, student={"model": str(small)}, control="pretrained")
    student, given = weights(run / "student"), weights(small)
    assert same(student, weights(run / "control_pretrained"))
    assert same(block(student, 1), block(given, 1))
    outcome = command("check", case.recipe(tmp_path, student={"model": str(small)}, control="pretrained"))
    assert outcome.code == 0, outcome.err
    assert "hidden_states: 1 <- 4" in outcome.out


@pytest.mark.slow
def test_optimum_exports_the_student_too(case, finished, tmp_path, monkeypatch):
    """In its own environment, which is made from the package index if it is not there yet."""
    monkeypatch.delenv("DISTIL_NLP_CACHE")
    run = finished.copy(tmp_path / "run", without=STAGES[4:])
    recipe = case.recipe(tmp_path, export={"backend": "optimum", "target": "avx2", "max_metric_drop": 0.2})
    outcome = command("export", recipe, "--output-dir", run)
    assert outcome.code == 0, outcome.err
    result = json.loads((run / "results" / "export.json").read_text(encoding="utf-8"))
    assert result["export"]["backend"] == "optimum"
    assert result["artefacts"]["onnx"]["metrics"] == rows_of(finished.folder)["student"]["metrics"]
    assert result["artefacts"]["onnx_int8"]["size_mb"] < result["artefacts"]["onnx"]["size_mb"]
