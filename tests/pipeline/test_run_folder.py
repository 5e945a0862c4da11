"""A run's folder that cannot be written, or of which something was deleted by hand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import command

from distil_nlp.errors import DataError, DistilError, RecipeError
from distil_nlp.evaluation.ledger import Ledger
from distil_nlp.recipe import Recipe
from distil_nlp.run.folder import RunFolder
from distil_nlp.run.ledger import _curves


@pytest.mark.parametrize("verb", ["run", "teach", "report"])
def test_a_folder_under_a_file_is_refused_before_anything_is_checked(case, tmp_path, verb):
    (tmp_path / "notes").write_text("mine")
    outcome = command(verb, case.recipe(tmp_path), "--output-dir", tmp_path / "notes" / "run")
    assert outcome.code == 1
    assert "notes is no folder" in outcome.err
    assert "another --output-dir" in outcome.err
    assert outcome.out == ""  # nor was a batch tried


def test_a_folder_that_may_only_be_read_is_refused(case, tmp_path, monkeypatch):
    recipe, access = Recipe.load(case.recipe(tmp_path)), os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and access(path, mode))
    for attempt in (
        lambda folder: folder.check_start(recipe, resume=False),
        lambda folder: folder.describe(recipe),
    ):
        with pytest.raises(RecipeError, match="is not writable"):
            attempt(RunFolder(tmp_path / "not" / "there yet"))
    assert not (tmp_path / "not").exists()


@pytest.mark.parametrize("resume", [True, False])
def test_results_without_their_recipe_are_nobodys(case, tmp_path, resume):
    """They may be of another recipe, and were taken for this one's."""
    folder, recipe = RunFolder(tmp_path / "run"), Recipe.load(case.recipe(tmp_path))
    folder.describe(recipe)
    folder.finish("teach", {})
    folder.check_start(recipe, resume=True)
    (folder.path / "recipe.yaml").unlink()
    with pytest.raises(RecipeError, match=r"no recipe\.yaml"):
        folder.check_start(recipe, resume=resume)
    with pytest.raises(RecipeError, match=r"no recipe\.yaml"):
        folder.describe(recipe)
    assert folder.has("teach")


def test_a_folder_at_which_another_process_works_is_refused(case, tmp_path):
    folder, recipe = tmp_path / "run", Recipe.load(case.recipe(tmp_path))
    RunFolder(folder).describe(recipe)
    RunFolder(folder).describe(recipe)  # this process may go on with it
    code = "import sys, filelock as f; lock = f.FileLock(sys.argv[1]).acquire(); print('held', flush=True); input()"
    held = [sys.executable, "-c", code, str(folder / ".lock")]
    with subprocess.Popen(held, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RecipeError, match="Another process is at work there"):
            RunFolder(folder).describe(recipe)
        other.communicate("\n")
    RunFolder(folder).describe(recipe)


def test_what_a_killed_process_was_writing_is_cleared_away(case, tmp_path):
    folder = tmp_path / "run"
    (folder / ".student.partial").mkdir(parents=True)
    for name in (".student.partial/config.json", ".recipe.yaml.1f.partial", "results.csv"):
        (folder / name).write_text("{", encoding="utf-8")
    RunFolder(folder).describe(Recipe.load(case.recipe(tmp_path)))
    assert {path.name for path in folder.iterdir()} == {".lock", "recipe.yaml", "environment.json", "results.csv"}


def test_outputs_that_are_gone_are_asked_for_by_name(tmp_path):
    with pytest.raises(DistilError, match="outputs of the teacher"):
        RunFolder(tmp_path).outputs("teacher")


def test_an_export_that_is_gone_is_not_left_out_of_the_bench(finished, tmp_path):
    run = finished.copy(tmp_path / "run")
    (run / "onnx" / "model_quantized.onnx").unlink()
    outcome = command("bench", finished.recipe, "--output-dir", run)
    assert outcome.code == 1
    assert "'onnx_int8' was to be timed" in outcome.err
    assert "distil-nlp export" in outcome.err
    assert "Traceback" not in outcome.err


def test_spaces_brackets_and_other_scripts_in_the_path(finished, tmp_path):
    run = finished.copy(tmp_path / "rün [1] мой", without=["evaluate", "export", "bench", "report"])
    shutil.rmtree(run / "onnx")
    outcome = command("run", finished.recipe, "--output-dir", run, "--resume")
    assert outcome.code == 0, outcome.err
    assert {path.name for path in (run / "onnx").glob("*.onnx")} == {"model.onnx", "model_quantized.onnx"}
    assert (run / "report.svg").is_file()


def test_terms_are_those_of_the_trainer_whatever_else_is_logged():
    """A checkpoint, from which the first logs may come, sorts the names; and transformers and callbacks add theirs."""
    log = {"logits_kl": 0.2, "loss": 0.7, "task_loss": 0.5, "train_tokens_per_second": 341.3, "step": 5}
    trained = {"terms": ["task_loss", "logits_kl"], "log_history": [log, {"train_loss": 0.7, "step": 5}]}
    curves = _curves({"distill": trained})
    assert [(curve.run, curve.term, curve.values) for curve in curves] == [
        ("student", "loss", [0.7]),
        ("student", "task_loss", [0.5]),
        ("student", "logits_kl", [0.2]),
    ]


def test_a_report_that_is_gone_is_written_by_the_stage_report(tmp_path):
    with pytest.raises(DataError, match="distil-nlp report"):
        Ledger.load(tmp_path / "report.json")
