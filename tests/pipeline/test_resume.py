"""Going on with a run: what is done is not done again, and what is interrupted ends as if it had not been."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import STAGES, TRAINING, command

from distil_nlp.export import onnx_export
from distil_nlp.run import Run, stages
from distil_nlp.training import DistillationTrainer

TRAINED = ("teacher", "student", "control_pretrained", "control_same_start")


@pytest.fixture
def calls(monkeypatch):
    """Names of the stages that are run from now on."""
    seen = []
    for name, function in stages.WORK.items():

        def watched(run, name=name, function=function):
            seen.append(name)
            return function(run)

        monkeypatch.setitem(stages.WORK, name, watched)
    return seen


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_models(folder, expected):
    for name in TRAINED:
        left, right = weights(folder / name), weights(expected / name)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left), name


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def interrupt_training(patch, model, step):
    """Raises in the micro-batch of that number, from 0, of one model's training."""
    compute_loss, seen = DistillationTrainer.compute_loss, []

    def interrupted(self, *args, **kwargs):
        if f"/{model}" in str(self.args.output_dir) and self.model.training:
            seen.append(model)
            if len(seen) > step:
                raise KeyboardInterrupt
        return compute_loss(self, *args, **kwargs)

    patch.setattr(DistillationTrainer, "compute_loss", interrupted)


def test_a_finished_run_is_shown_again(finished, tmp_path, calls):
    run = finished.copy(tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    outcome = command("run", finished.recipe, "--output-dir", run, "--resume")
    assert outcome.code == 0, outcome.err
    assert calls == []
    assert outcome.out.count("done before") == len(STAGES)
    assert "Control, same start" in outcome.out
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")} == before


@pytest.mark.parametrize("stage", ["evaluate", "bench"])
def test_a_stage_without_a_result_is_done_again_and_what_follows_it(finished, tmp_path, calls, stage):
    run = finished.copy(tmp_path / "run", without=[stage])
    outcome = command("run", finished.recipe, "--output-dir", run, "--resume")
    assert outcome.code == 0, outcome.err
    assert calls == list(STAGES[STAGES.index(stage) :])
    assert_same_models(run, finished.folder)


def test_a_run_is_not_overwritten(finished, tmp_path, calls):
    run = finished.copy(tmp_path / "run")
    outcome = command("run", finished.recipe, "--output-dir", run)
    assert outcome.code == 1
    assert "There is a run in it already." in outcome.err
    assert "--resume" in outcome.err
    assert calls == []


def test_another_recipe_cannot_go_on_with_it(case, finished, tmp_path, calls):
    run = finished.copy(tmp_path / "run")
    kept = (run / "recipe.yaml").read_bytes()
    recipe = case.recipe(tmp_path, seed=8, training={**TRAINING, "max_steps": 13})
    outcome = command("run", recipe, "--output-dir", run, "--resume")
    assert outcome.code == 1
    assert "these differ: seed, training.max_steps." in outcome.err
    assert calls == []
    assert (run / "recipe.yaml").read_bytes() == kept


# What Ctrl-C breaks off in each stage.
TRAINING_OF = {"teach": "teacher", "distill": "student", "control": "control_pretrained"}
CALL_OF = {
    "evaluate": (Run, "record"),
    "bench": (stages, "latency_table"),
    "report": (stages, "render_html"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_in_a_stage_keeps_the_stages_before_it(finished, tmp_path, calls, stage):
    later = STAGES[STAGES.index(stage) :]
    run = finished.copy(tmp_path / "run", without=later)
    with pytest.MonkeyPatch.context() as patch:
        if stage in TRAINING_OF:
            interrupt_training(patch, TRAINING_OF[stage], 7)
        elif stage == "export":
            patch.setitem(onnx_export.BACKENDS, "native", interrupt)
        else:
            patch.setattr(*CALL_OF[stage], interrupt)
        outcome = command("run", finished.recipe, "--output-dir", run, "--resume")
    assert outcome.code == 130
    assert "Interrupted" in outcome.err
    assert "--resume" in outcome.err
    assert "Traceback" not in outcome.err
    assert calls == [stage]
    outcome = command("run", finished.recipe, "--output-dir", run, "--resume")
    assert outcome.code == 0, outcome.err
    assert calls == [stage, *later]
    assert_same_models(run, finished.folder)
    assert [path.name for path in run.rglob(".*")] == [".lock"]


def test_a_control_that_is_trained_is_not_trained_again(finished, tmp_path):
    run = finished.copy(tmp_path / "run", without=["control", "report"])
    with pytest.MonkeyPatch.context() as patch:
        interrupt_training(patch, "control_same_start", 7)
        assert command("run", finished.recipe, "--output-dir", run, "--resume").code == 130
    trained = []
    with pytest.MonkeyPatch.context() as patch:
        train = stages.train
        patch.setattr(stages, "train", lambda run, name, *a, **kw: trained.append(name) or train(run, name, *a, **kw))
        outcome = command("run", finished.recipe, "--output-dir", run, "--resume")
    assert outcome.code == 0, outcome.err
    assert trained == ["control_same_start"]
    assert_same_models(run, finished.folder)
    assert {path.name for path in (run / "results").glob("*.json")} == {f"{name}.json" for name in STAGES}
    kept, expected = (json.loads((f / "results" / "control.json").read_text()) for f in (run, finished.folder))
    assert list(kept["controls"]) == list(expected["controls"])


def saving(case, folder, **changes):
    """A recipe whose student is saved every four of its twelve steps."""
    training = {**TRAINING, "max_steps": 12, "save_strategy": "steps", "save_steps": 4}
    return case.recipe(folder, training=training, **changes)


def test_training_goes_on_at_its_checkpoint_and_ends_as_if_never_stopped(case, finished, tmp_path):
    run, recipe = finished.copy(tmp_path / "run", without=STAGES[1:]), saving(case, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_training(patch, "student", 10)
        assert command("distill", recipe, "control=false", "--output-dir", run).code == 130
    checkpoint = run / "checkpoints" / "student" / "checkpoint-8"
    assert [path.name for path in checkpoint.parent.iterdir() if path.name.startswith("checkpoint")] == ["checkpoint-8"]
    with pytest.MonkeyPatch.context() as patch:
        interrupt_training(patch, "student", 4)  # four steps are left, so a fifth would be one too many
        outcome = command("distill", recipe, "control=false", "--output-dir", run)
    assert outcome.code == 0, outcome.err
    assert not checkpoint.exists()
    left, right = weights(run / "student"), weights(finished.folder / "student")
    assert all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("damage", ["cut short", "changed", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_way_out_works(case, finished, tmp_path, calls, damage):
    recipe, run = saving(case, tmp_path, control=False, export=None), tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        interrupt_training(patch, "student", 10)
        assert command("run", recipe, "--output-dir", run).code == 130
    checkpoint = run / "checkpoints" / "student" / "checkpoint-8"
    file = checkpoint / "optimizer.pt"
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(data[:100] if damage == "cut short" else data[:-1] + bytes([data[-1] ^ 1]))
    outcome = command("run", recipe, "--output-dir", run, "--resume")
    assert outcome.code == 1
    assert "The checkpoint is damaged: optimizer.pt" in outcome.err
    assert f"Delete {checkpoint}" in outcome.err
    assert "Traceback" not in outcome.err
    shutil.rmtree(checkpoint)
    outcome = command("run", recipe, "--output-dir", run, "--resume")
    assert outcome.code == 0, outcome.err
    assert calls.count("teach") == 1
    left, right = weights(run / "student"), weights(finished.folder / "student")
    assert all(torch.equal(left[key], right[key]) for key in left)
