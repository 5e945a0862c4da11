"""What a user gets wrong: one clear error each, before anything is lost."""

import os
import re
import shutil
import zipfile

import pytest
from safetensors.torch import load_file, save_file
from tiny_run import STAGES, TRAINING, command, save_checkpoint, write_rows

from distil_nlp.export import Graphs
from distil_nlp.export.onnx_model import OneGraph
from distil_nlp.run import stages

NAMED = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
ALONE = {"control": False, "export": None}  # a teacher that is fine-tuned already has no control but same_start


def assert_one_error(outcome, *words):
    """Exit code 1 and at most three lines: what was asked, what was found, what to do."""
    assert outcome.code == 1, outcome.out
    lines = [line for line in outcome.err.splitlines() if line.strip() and "it/s]" not in line]
    assert 2 <= len(lines) <= 3, outcome.err
    for word in words:
        assert word in outcome.err, outcome.err


def line_of(recipe, key):
    """The place of a key as an error gives it: file:line:column."""
    for number, line in enumerate(recipe.read_text(encoding="utf-8").splitlines(), start=1):
        if (found := line.find(f"{key}:")) >= 0:
            return f"{recipe}:{number}:{found + 1}"
    raise AssertionError(key)


@pytest.mark.parametrize("verb", ["run", "check"])
def test_a_missing_column(case, tmp_path, verb):
    outcome = command(verb, case.recipe(tmp_path, task__label="feelings"))
    assert_one_error(outcome, "has no column 'feelings'", "Did you mean 'feeling'?", "Correct")
    assert outcome.out.strip() == ""
    assert not (tmp_path / "runs").exists()  # nor is the corrected recipe refused for what this one left


@pytest.mark.parametrize(
    ("changes", "key", "near"),
    [
        ({"student__num_layer": 2}, "num_layer", "num_layers"),
        ({"evaluation__batchsize": 2}, "batchsize", "batch_size"),
        ({"trainig": {}}, "trainig", "training"),
        ({"training__learning_rat": 0.1}, "learning_rat", "learning_rate"),
    ],
)
def test_an_unknown_key(case, tmp_path, changes, key, near):
    recipe = case.recipe(tmp_path, **changes)
    outcome = command("check", recipe)
    assert outcome.code == 1
    assert line_of(recipe, key) in outcome.err
    assert f"Did you mean '{near}'?" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("verb", ["check", "teach"])
def test_an_unknown_objective(case, tmp_path, verb):
    recipe = case.recipe(tmp_path, objectives={"task_loss": {}, "logit_kl": {}})
    outcome = command(verb, recipe)
    assert_one_error(outcome, line_of(recipe, "logit_kl"), "Did you mean 'logits_kl'?")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objectives": {"logits_kl": {}}, "training__label_smoothing_factor": 0.1}, "smooths the labels of task_loss"),
        ({"training__gradient_checkpointing": True, "training__gradient_checkpointing_kwargs": {"use_reentrant": True}},
         "reentrant checkpoints give hidden states no gradient"),
    ],
)  # fmt: skip
def test_what_a_trainer_refuses_is_found_before_the_teacher_is_trained(case, tmp_path, changes, words):
    outcome = command("check", case.recipe(tmp_path, **changes))
    assert outcome.code == 1
    assert words in outcome.err


def test_an_unknown_parameter_of_an_objective(case, tmp_path):
    recipe = case.recipe(tmp_path, objectives={"logits_kl": {"temprature": 2.0}})
    outcome = command("check", recipe)
    assert_one_error(outcome, line_of(recipe, "logits_kl"), "'temprature'", "Did you mean 'temperature'")


def finetuned(folder, **config):
    """A classifier that always gives the same answer."""
    save_checkpoint(folder, head=True, **config)
    state = load_file(folder / "model.safetensors")
    state["classifier.weight"].zero_()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return {"model": str(folder), "fine_tune": None}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("positive", "negative"), ["in another order", "0 positive", "`classes` in the teacher's order"]),
        (("bad", "good"), ["0 bad", "Name the data's labels as the teacher does"]),
        (("LABEL_0", "LABEL_1"), ["have no names", "id2label"]),
        (("negative", "neutral", "positive"), ["neutral"]),
    ],
)
@pytest.mark.parametrize("verb", ["check", "teach"])
def test_labels_of_teacher_and_data_that_disagree(case, tmp_path, names, words, verb):
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    recipe = case.recipe(tmp_path, teacher=finetuned(tmp_path / "teacher", **labels), **ALONE)
    assert_one_error(command(verb, recipe), "The labels of the teacher and of the data do not agree.", *words)


@pytest.mark.parametrize("verb", ["check", "run", "teach"])
def test_a_fine_tuned_teacher_no_better_than_chance(case, tmp_path, verb):
    recipe = case.recipe(tmp_path, teacher=finetuned(tmp_path / "teacher", **NAMED), **ALONE)
    outcome = command(verb, recipe)
    assert_one_error(outcome, "must know the task", "always giving the commonest label", "54 validation rows")


def test_a_teacher_that_learned_nothing_is_not_distilled(case, tmp_path):
    still = {**TRAINING, "max_steps": 1, "learning_rate": 0.0}
    outcome = command("run", case.recipe(tmp_path, teacher__fine_tune=still), "--output-dir", tmp_path / "run")
    assert outcome.code == 1
    assert "always giving the commonest label" in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "run" / "student").exists()


def test_widths_that_differ_without_a_projection(case, tmp_path):
    small = save_checkpoint(tmp_path / "small", num_hidden_layers=2, hidden_size=16)
    student = {"student": {"model": str(small)}, "control": "pretrained"}
    recipe = case.recipe(tmp_path, **student, objectives={"hidden_states": {"projection": "none"}})
    assert_one_error(command("check", recipe), "The student is 16 wide, the teacher 32.", "projection: linear")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student": {"layers": [2, 9]}}, ["[2, 9]", "The teacher has 4 blocks"]),
        ({"student": {"num_layers": 5}}, ["5", "4"]),
        ({"objectives": {"hidden_states": {"mapping": {1: 9}}}}, ["9", "1 to 4"]),
        ({"objectives": {"attentions": {"mapping": [[3, 4]]}}}, ["3", "1 to 2"]),
        ({"objectives": {"attentions": {"mapping": "unifrom"}}}, ["Did you mean 'uniform'?"]),
    ],
)
def test_a_layer_that_does_not_exist(case, tmp_path, changes, words):
    assert_one_error(command("check", case.recipe(tmp_path, **changes)), *words)


def test_a_wheel_with_another_hash(case, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "toy_data-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("toy_data/rows.csv", case.data.read_text(encoding="utf-8"))
        archive.writestr("toy_data-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-data\nVersion: 1.0\n")
        archive.writestr("toy_data-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("toy_data-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    recipe = case.recipe(tmp_path, task__dataset="wheel://toy-data==1.0/toy_data/rows.csv", task__sha256="0" * 64)
    outcome = command("check", recipe)
    assert outcome.code == 1
    assert "0" * 64 in outcome.err
    assert "sha256" in outcome.err
    assert "Traceback" not in outcome.err
    assert not list((tmp_path / "cache").rglob("rows.csv"))


def test_no_network(case, tmp_path):
    outcome = command("check", case.recipe(tmp_path, teacher__model="someone/some-model"))
    assert_one_error(outcome, "someone/some-model")


def test_an_empty_split(case, tmp_path):
    split = {"train": 0.5, "validation": 0.49999, "test": 0.00001}
    outcome = command("check", case.recipe(tmp_path, task__split=split))
    assert_one_error(outcome, "The test split of", "is empty", "test 0", "larger share")


def test_a_text_that_is_not_utf_8(case, tmp_path):
    lines = case.data.read_bytes().splitlines(keepends=True)
    before = sum(map(len, lines[:41]))
    data = tmp_path / "latin.csv"
    data.write_bytes(b"".join([*lines[:41], b"caf\xe9 ", *lines[41:]]))
    recipe = case.recipe(tmp_path, task__dataset=str(data))
    outcome = command("check", recipe)
    assert_one_error(outcome, "Line 42", "0xe9", f"byte {before + 3} of", "encoding: latin-1")
    assert command("check", recipe, "task.encoding=latin-1").code == 0


def test_a_recipe_that_is_not_there_or_not_yaml(tmp_path):
    assert_one_error(command("check", "tiny.yaml"), "There is no such file.")
    (tmp_path / "broken.yaml").write_text("task: [", encoding="utf-8")
    outcome = command("check", tmp_path / "broken.yaml")
    assert_one_error(outcome, "not valid YAML", "broken.yaml:1:8")


def test_data_with_one_class(case, tmp_path):
    rows = write_rows(tmp_path / "rows.csv").read_text(encoding="utf-8").replace("negative", "positive")
    (tmp_path / "rows.csv").write_text(rows, encoding="utf-8")
    outcome = command("check", case.recipe(tmp_path, task__dataset=str(tmp_path / "rows.csv")))
    assert_one_error(outcome, "fewer than two classes")


def test_a_loss_that_is_not_finite(case, finished, tmp_path):
    """Steps so large that the student's weights overflow; the teacher stays."""
    run = finished.copy(tmp_path / "run", without=STAGES[1:])
    wild = {**TRAINING, "max_steps": 12, "learning_rate": 1e38, "optim": "sgd"}
    outcome = command("distill", case.recipe(tmp_path, training=wild), "--output-dir", run)
    assert outcome.code == 1
    assert re.search(r"Training stopped at step \d+: the loss is not finite\.", outcome.err)
    assert "task_loss = nan" in outcome.err
    assert "Lower the learning rate" in outcome.err
    assert "Traceback" not in outcome.err
    assert (run / "results" / "teach.json").is_file()
    assert not (run / "results" / "distill.json").exists()


def test_an_int8_model_that_lost_too_much_is_not_kept(finished, tmp_path, monkeypatch):
    run = finished.copy(tmp_path / "run", without=STAGES[4:])
    onnx, answer = finished.folder / "onnx", OneGraph.__call__

    def exported(*args, **kwargs):
        """What the finished run's export gave."""
        shutil.rmtree(run / "onnx")
        shutil.copytree(onnx, run / "onnx")
        return Exported

    class Exported:
        onnx, onnx_int8 = Graphs(run / "onnx"), Graphs(run / "onnx", quantized=True)

    def upside_down(graph, batch):
        sign = -1 if "quantized" in graph.name else 1
        return {name: sign * value for name, value in answer(graph, batch).items()}

    monkeypatch.setattr(stages, "export_onnx", exported)
    monkeypatch.setattr(OneGraph, "__call__", upside_down)
    outcome = command("run", finished.recipe, "--output-dir", run, "--resume")
    assert_one_error(outcome, "at most 0.2 lost in accuracy", "a loss of", "export.quantization: null")
    assert [path.name for path in (run / "onnx").glob("*.onnx")] == ["model.onnx"]
    assert not (run / "results" / "export.json").exists()
    assert (run / "student" / "model.safetensors").read_bytes() == (
        finished.folder / "student" / "model.safetensors"
    ).read_bytes()
