"""All that changes while training goes on, at once: exact whatever batches are cut into, and after resuming."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from adaptive import adaptive_trainer, everything, logs_of
from safetensors.torch import load_file
from tiny_models import tiny_model
from transformers import TrainerCallback

from distil_nlp.objectives import Attentions, HiddenStates, LogitsKL, TaskLoss
from distil_nlp.training import WEIGHTINGS, Linear, ScheduleCallback

HERE = Path(__file__).parent


def all_at_once(folder, method, *, more=(), **arguments):
    terms = [
        TaskLoss(),
        LogitsKL(),
        HiddenStates(mapping="emd"),
        Attentions(mapping="attention", weight=20.0),
    ]
    callbacks = [ScheduleCallback(terms[1], "weight", Linear(1.0, 0.2)), *more]
    made = WEIGHTINGS[method](**({"every": 2} if method == "grad_norm" else {"learning_rate": 0.1}))
    return adaptive_trainer(folder, terms=terms, weighting=made, callbacks=callbacks, **arguments)


@pytest.mark.parametrize("method", ["uncertainty", "grad_norm"])
def test_accumulation_is_one_big_batch(tmp_path, method):
    """With every layer mapping that learns, and a schedule."""
    whole, parts = (
        all_at_once(tmp_path, method, per_device_train_batch_size=size, gradient_accumulation_steps=steps)
        for size, steps in ((8, 1), (3, 3))
    )
    whole.train()
    parts.train()
    expected = everything(whole)
    assert {"o.2.layer_weights.plan", "o.3.layer_weights.query.weight"} <= expected.keys()
    for name, tensor in everything(parts).items():
        torch.testing.assert_close(
            tensor, expected[name], rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}"
        )
    for ours, theirs in zip(logs_of(parts), logs_of(whole), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"epoch", "step"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("method", ["uncertainty", "grad_norm"])
def test_resuming_gives_the_same(tmp_path, method):
    """In mid-epoch, between two measurements, with dropout and Adam."""

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 4

    def start(folder, *more):
        return all_at_once(
            folder,
            method,
            more=more,
            student=tiny_model(seed=1, num_hidden_layers=2, initializer_range=0.2),
            optim="adamw_torch",
            learning_rate=1e-3,
            max_steps=7,
            per_device_train_batch_size=2,
            save_strategy="steps",
            save_steps=3,
            lr_scheduler_type="linear",
        )

    whole = start(tmp_path / "whole")
    whole.train()
    start(tmp_path / "cut", Stop()).train()
    torch.manual_seed(99)
    again = start(tmp_path / "cut")
    again.train(resume_from_checkpoint=True)
    for name, tensor in everything(whole).items():
        assert torch.equal(everything(again)[name], tensor), name
    assert logs_of(again)[-1] == pytest.approx(logs_of(whole)[-1])


@pytest.mark.parametrize("method", ["uncertainty", "grad_norm"])
def test_two_processes_are_one_big_batch(tmp_path, method):
    states = []
    for processes, size, accumulation in ((1, 8, 1), (2, 2, 2)):
        path = tmp_path / f"{processes}.safetensors"
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        script = [str(HERE / "launch_adaptive.py"), str(tmp_path), method, str(size), str(accumulation), str(path)]
        done = subprocess.run(
            [sys.executable, *(launcher if processes > 1 else []), *script],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
                "OMP_NUM_THREADS": "1",
                "CUDA_VISIBLE_DEVICES": "",
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        states.append(load_file(path))
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        if not name.endswith(("epoch", "runtime")):
            torch.testing.assert_close(
                states[1][name], tensor, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}"
            )
