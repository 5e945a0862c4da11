"""A disk that fills up while a stage saves: said once, and what was finished is kept."""

import errno
import os
import shutil
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors import SafetensorError
from tiny_run import STAGES, TRAINING, command

from distil_nlp.build import rows
from distil_nlp.run import disk
from distil_nlp.run import folder as run_folder

NO_SPACE = OSError(errno.ENOSPC, "No space left on device")
NO_SPACE_FOR_WEIGHTS = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
TORN = [
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 225088 vs 224976"),
    RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    RuntimeError("basic_ios::clear: iostream error"),
]


def raises(error):
    def function(*args, **kwargs):
        raise error

    return function


def assert_full_disk(outcome):
    assert outcome.code == 1, outcome.out
    lines = [line for line in outcome.err.splitlines() if line.strip() and "it/s]" not in line]
    assert len(lines) == 3, outcome.err
    assert "The disk is full" in lines[1]
    assert "--resume" in lines[2]


@pytest.mark.parametrize(("stage", "error"), [("teach", NO_SPACE), ("distill", NO_SPACE_FOR_WEIGHTS)])
def test_while_a_model_is_saved(finished, tmp_path, monkeypatch, stage, error):
    run = finished.copy(tmp_path / "run", without=[stage])
    finished_before = {f"{name}.json" for name in STAGES[: STAGES.index(stage)]}
    with monkeypatch.context() as patch:
        patch.setattr(transformers.PreTrainedModel, "save_pretrained", raises(error))
        outcome = command("run", finished.recipe, "--output-dir", run, "--resume")
    assert_full_disk(outcome)
    assert {path.name for path in (run / "results").glob("*.json")} == finished_before
    outcome = command("run", finished.recipe, "--output-dir", run, "--resume")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("error", TORN)
def test_while_a_checkpoint_is_saved(case, finished, tmp_path, monkeypatch, error):
    """The first is whole, the second is torn; torch has no error number for it."""
    run = finished.copy(tmp_path / "run", without=STAGES[1:])
    recipe = case.recipe(tmp_path, training={**TRAINING, "max_steps": 12, "save_strategy": "steps", "save_steps": 4})
    save, usage = torch.save, shutil.disk_usage(tmp_path)

    def torn(value, file, *args, **kwargs):
        if "checkpoint-8" in str(file):
            raise error
        save(value, file, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", torn)
        patch.setattr(disk.shutil, "disk_usage", lambda path: usage._replace(free=0))
        outcome = command("distill", recipe, "control=false", "--output-dir", run)
    assert_full_disk(outcome)
    assert (run / "checkpoints" / "student" / "checkpoint-4" / "distil_seal.json").is_file()
    outcome = command("distill", recipe, "control=false", "--output-dir", run)
    assert outcome.code == 0, outcome.err
    assert (run / "student" / "model.safetensors").read_bytes() == (
        finished.folder / "student" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(("stage", "place"), [("evaluate", "np.savez"), ("report", "Ledger.save"), ("bench", "result")])
def test_while_figures_are_saved(finished, tmp_path, monkeypatch, stage, place):
    run = finished.copy(tmp_path / "run", without=[stage])
    with monkeypatch.context() as patch:
        if place == "np.savez":
            patch.setattr(run_folder.np, "savez", raises(NO_SPACE))
        elif place == "result":
            write = run_folder.write_json
            full = raises(NO_SPACE)
            patch.setattr(run_folder, "write_json", lambda p, v: (full if p.name == "bench.json" else write)(p, v))
        else:
            patch.setattr(os, "fsync", raises(NO_SPACE))
        outcome = command("run", finished.recipe, "--output-dir", run, "--resume")
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    assert "space" in outcome.err.lower()
    assert not (run / "results" / f"{stage}.json").exists()
    assert (run / "report.json").read_bytes() == (finished.folder / "report.json").read_bytes()
    assert command("run", finished.recipe, "--output-dir", run, "--resume").code == 0


def test_another_error_is_not_taken_for_a_full_disk(finished, tmp_path, monkeypatch):
    run = finished.copy(tmp_path / "run", without=["evaluate"])
    monkeypatch.setattr(rows, "TorchPredictor", raises(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        command("run", finished.recipe, "--output-dir", run, "--resume")


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of three megabytes, where one can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("mounting a file system takes Linux and root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a file system here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("left", [150_000, 400_000])
def test_on_a_disk_that_is_really_full(case, finished, tmp_path, small_disk, left):
    """With room for more or less of what a run writes, so that it fills up in different places."""
    run = small_disk / "run"
    recipe = case.recipe(
        tmp_path,
        training={**TRAINING, "max_steps": 12, "save_strategy": "steps", "save_steps": 4},
        control=False,
        export=None,
    )
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - left))
    outcome = command("run", recipe, "--output-dir", run)
    assert_full_disk(outcome)
    done = {path.name: path.read_bytes() for path in (run / "results").glob("*.json")}
    ballast.unlink()
    outcome = command("run", recipe, "--output-dir", run, "--resume")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("done before") == len(done)
    assert all((run / "results" / name).read_bytes() == data for name, data in done.items() if name != "report.json")
    assert (run / "student" / "model.safetensors").read_bytes() == (
        finished.folder / "student" / "model.safetensors"
    ).read_bytes()
