"""What is kept of a run belongs to its recipe and its data, and nothing that is finished is lost or done again."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from test_resume import assert_same_models, interrupt
from tiny_run import Case, Finished, command

from distil_nlp.errors import DistilError
from distil_nlp.recipe import Recipe
from distil_nlp.run import stages
from distil_nlp.run.changes import STAGES
from distil_nlp.run.folder import RunFolder, write_json
from distil_nlp.training import DistillationTrainer


def files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The model of each micro-batch that is trained on from now on."""
    seen: list[str] = []
    compute_loss = DistillationTrainer.compute_loss

    def watched(self, model, *args, **kwargs):
        if model.training:
            seen.append(Path(self.args.output_dir).name)
        return compute_loss(self, model, *args, **kwargs)

    monkeypatch.setattr(DistillationTrainer, "compute_loss", watched)
    return seen


@pytest.mark.parametrize(
    ("stage", "override", "done"),
    [
        ("report", "student.num_layers=3", "distill, control, evaluate, export, bench"),
        ("bench", "seed=8", "teach, distill, control, evaluate, export"),
        ("export", "evaluation.bootstrap_samples=300", "evaluate"),
        ("evaluate", "control=false", "control"),
        ("distill", "seed=8", "teach"),
    ],
)
def test_a_stage_alone_does_not_go_on_with_another_recipe(finished: Finished, tmp_path, stage, override, done) -> None:
    run = finished.copy(tmp_path / "run")
    before = files(run)
    outcome = command(stage, finished.recipe, override, "--output-dir", run)
    assert outcome.code == 1
    assert f"({done}) with another recipe; these differ: {override.split('=')[0]}" in outcome.err
    assert f"distil-nlp {done.split(',')[0].replace('control', 'distill')}'" in outcome.err
    assert files(run) == before


def test_what_a_changed_stage_sets_aside_is_said(finished: Finished, tmp_path, steps) -> None:
    run = finished.copy(tmp_path / "run")
    student = (run / "student" / "model.safetensors").read_bytes()
    outcome = command("distill", finished.recipe, "student.num_layers=1", "control=false", "--output-dir", run)
    assert outcome.code == 0, outcome.err
    for name in ("student", "onnx", "control_pretrained", "control_same_start"):
        assert f"set aside: {name} is now {name}.outdated" in outcome.out
    assert (run / "student.outdated" / "model.safetensors").read_bytes() == student
    assert {path.stem for path in (run / "results").glob("*.json")} == {"teach", "distill"}


def test_other_metrics_are_a_matter_of_scoring(finished: Finished, tmp_path, steps) -> None:
    run = finished.copy(tmp_path / "run")
    outcome = command("evaluate", finished.recipe, "task.metrics=[f1,accuracy]", "--output-dir", run)
    assert outcome.code == 0, outcome.err
    assert steps == []
    assert_same_models(run, finished.folder)


def full_disk(path: Path, value: object) -> None:
    if path.name == "distill.json":
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    write_json(path, value)


@pytest.mark.parametrize("what", ["the teacher's test", "the result", "dropping checkpoints"])
def test_a_saved_model_is_not_trained_again(case: Case, finished: Finished, tmp_path, steps, what) -> None:
    """Interrupted after a training, before the stage is finished."""
    run = finished.copy(tmp_path / "run", without=STAGES if what == "the teacher's test" else STAGES[1:])
    with pytest.MonkeyPatch.context() as patch:
        if what == "the teacher's test":
            patch.setattr(stages, "refuse_weak_members", interrupt)
        elif what == "the result":
            patch.setattr("distil_nlp.run.folder.write_json", full_disk)
        else:
            patch.setattr(RunFolder, "drop_checkpoints", interrupt)
        stage, model = ("teach", "teacher") if what == "the teacher's test" else ("distill", "student")
        outcome = command(stage, finished.recipe, "--output-dir", run)
    assert outcome.code == (1 if what == "the result" else 130)
    assert ("Disk quota exceeded" in outcome.err) == (what == "the result")
    assert set(steps) == {model}
    steps.clear()
    outcome = command("run", finished.recipe, "--output-dir", run, "--resume")
    assert outcome.code == 0, outcome.err
    assert model not in steps
    assert_same_models(run, finished.folder)
    assert {path.stem for path in (run / "results").glob("*.json")} == set(STAGES)
    assert not (run / "checkpoints").exists()


def test_data_that_has_changed_is_refused_and_may_be_begun_with(case: Case, tmp_path, steps) -> None:
    data, run = shutil.copy(case.data, tmp_path / "rows.csv"), tmp_path / "run"
    recipe = case.recipe(tmp_path, task__dataset=str(data), control=False, export=None)
    assert command("teach", recipe, "--output-dir", run).code == 0
    assert command("distill", recipe, "--output-dir", run).code == 0
    rows = data.read_text(encoding="utf-8").splitlines(keepends=True)
    data.write_text("".join(rows[:250]), encoding="utf-8")
    before = files(run)
    for verb, resume in (("run", ["--resume"]), ("evaluate", []), ("distill", [])):
        outcome = command(verb, recipe, "--output-dir", run, *resume)
        assert outcome.code == 1
        assert "The data has changed since: rows.csv." in outcome.err
        assert "begin with 'distil-nlp teach'" in outcome.err
    before |= {name: when for name, when in files(run).items() if name in ("recipe.yaml", "environment.json")}
    assert files(run) == before
    steps.clear()
    outcome = command("teach", recipe, "--output-dir", run)
    assert outcome.code == 0, outcome.err
    assert set(steps) == {"teacher"}
    assert "student is now student.outdated" in outcome.out


def test_a_stage_that_begins_drops_what_later_ones_have_half_done(case: Case, tmp_path) -> None:
    folder, recipe = RunFolder(tmp_path / "run"), Recipe.load(case.recipe(tmp_path))

    def half_done() -> None:
        folder.finish("student", {})
        (folder.checkpoints / "student" / "checkpoint-4").mkdir(parents=True)

    half_done()
    folder.begin("distill", recipe)  # interrupted: it goes on
    assert folder.has("student")
    assert (folder.checkpoints / "student" / "checkpoint-4").is_dir()
    folder.begin("teach", recipe)  # another teacher: it must not
    assert not folder.has("student")
    assert not (folder.checkpoints / "student").exists()
    half_done()
    folder.finish("distill", {})
    folder.begin("distill", recipe)  # finished: it is done anew
    assert not folder.has("student")
    assert not folder.has("distill")
    assert not (folder.checkpoints / "student").exists()


def test_a_damaged_result_is_named(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    folder.finish("teach", {"seconds": 1.0})
    (tmp_path / "results" / "teach.json").write_text('{"seconds": ')
    with pytest.raises(DistilError, match=r"(?s)teach\.json.*damaged.*Delete it"):
        folder.result("teach")
