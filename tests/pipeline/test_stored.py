"""A recipe whose teacher's outputs are stored."""

import runpy
from pathlib import Path

import torch
from safetensors.torch import load_file
from tiny_run import STAGES, TRAINING, command

from distil_nlp.recipe import Recipe
from distil_nlp.run.folder import RunFolder
from distil_nlp.teachers import ModelTeacher


def weights(run):
    return load_file(run / "student" / "model.safetensors")


def test_a_student_of_stored_outputs_and_a_second_run_that_needs_no_teacher(case, finished, tmp_path, monkeypatch):
    run, later = (finished.copy(tmp_path / name, without=STAGES[1:]) for name in ("run", "later"))
    store = {"folder": str(tmp_path / "outputs"), "budget_mb": 50}
    arguments = {**TRAINING, "max_steps": 24}
    plain = finished.copy(tmp_path / "plain", without=STAGES[1:])
    outcome = command("distill", case.recipe(tmp_path / "a", training=arguments, control=[]), "--output-dir", plain)
    assert outcome.code == 0, outcome.err
    recipe = case.recipe(tmp_path / "b", training=arguments, control=[], teacher__store=store)
    outcome = command("distill", recipe, "--output-dir", run)
    assert outcome.code == 0, outcome.err
    expected, got = weights(plain), weights(run)
    for name, tensor in expected.items():
        if "key.bias" not in name:  # no output depends on it: its gradient is rounding, which Adam makes large
            torch.testing.assert_close(got[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    assert list((tmp_path / "outputs").glob("*/shard-*"))

    def runs(self, batch, needs):
        raise AssertionError("the teacher runs")

    monkeypatch.setattr(ModelTeacher, "__call__", runs)
    outcome = command("distill", recipe, "--output-dir", later)
    assert outcome.code == 0, outcome.err
    for name, tensor in got.items():
        assert torch.equal(weights(later)[name], tensor), name
    program = finished.copy(tmp_path / "program", without=STAGES[1:])
    monkeypatch.setattr("sys.argv", ["distill.py", str(recipe), "--output-dir", str(program)])
    runpy.run_path(str(Path(__file__).parents[2] / "trainers" / "distill.py"), run_name="__main__")
    for name, tensor in got.items():
        assert torch.equal(weights(program)[name], tensor), name


def test_a_store_that_is_too_small_or_of_too_few_labels(case, finished, tmp_path):
    for number, (store, words) in enumerate([({"budget_mb": 0.5}, "budget_mb=0.5"), ({"top_k": 2}, "2 outputs")]):
        run = finished.copy(tmp_path / f"run{number}", without=STAGES[1:])
        recipe = case.recipe(tmp_path / f"recipe{number}", control=[], teacher__store=store)
        outcome = command("distill", recipe, "--output-dir", run)
        assert outcome.code == 1
        assert words in outcome.err
        assert (run / "teacher" / "model.safetensors").is_file()


def test_a_store_does_not_ask_for_another_teacher(case, finished, tmp_path):
    run = finished.copy(tmp_path / "run")
    folder = RunFolder(run)
    folder.describe(Recipe.load(case.recipe(tmp_path, teacher__store={})))
    assert folder.has("teach")
    assert not folder.has("distill")
    assert (run / "teacher" / "config.json").is_file()
