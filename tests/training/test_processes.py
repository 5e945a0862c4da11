"""What only shows with real processes: data parallelism, and a run that is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


def launch(processes, *arguments, script="launch_two.py"):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("item", ["example", "token", "features"])
def test_two_processes_are_one_big_batch(tmp_path, item):
    """Uneven token counts by process and by micro-batch; projections, clipping and logs included."""
    launch(1, tmp_path, item, 8, 1, tmp_path / "one.safetensors")
    launch(2, tmp_path, item, 2, 2, tmp_path / "two.safetensors")
    one, two = load_file(tmp_path / "one.safetensors"), load_file(tmp_path / "two.safetensors")
    assert one.keys() == two.keys()
    assert any(name.startswith("o.") for name in one)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_an_evaluation_counts_every_row_once(tmp_path):
    """Seven rows leave the last batch of the second process one of two, five rows none."""
    found = {}
    for processes in (1, 2):
        launch(processes, tmp_path, tmp_path / "found.json", script="launch_evaluated.py")
        found[processes] = json.loads((tmp_path / "found.json").read_text())
    assert len(found[1]) == 12
    assert found[2] == pytest.approx(found[1], rel=1e-5)


KILLED = """
import sys
from test_trainer import seeded_trainer
from tiny_models import tiny_model
from transformers import TrainerCallback
import time

class Slow(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        print(state.global_step, flush=True)
        if sys.argv[2] == "slow":
            time.sleep(0.3)

trainer = seeded_trainer(
    sys.argv[1], student=tiny_model(seed=1, hidden_size=16), max_steps=8, per_device_train_batch_size=2,
    optim="adamw_torch", save_strategy="steps", save_steps=2, save_total_limit=2, callbacks=[Slow()],
)
trainer.train(resume_from_checkpoint=True)
from safetensors.torch import save_file
state = {**trainer.model.state_dict(), **{f"o.{k}": v for k, v in trainer.objectives.state_dict().items()}}
save_file({k: v.contiguous() for k, v in state.items()}, sys.argv[1] + "/final.safetensors")
"""


def test_a_run_killed_in_mid_training_and_resumed_ends_with_the_same_weights(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(KILLED)

    def start(folder, pace):
        return subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / folder), pace],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    whole = start("whole", "fast")
    whole.communicate(timeout=200)
    assert whole.returncode == 0
    killed = start("killed", "slow")
    for line in killed.stdout:
        if line.strip() == "5":
            killed.send_signal(signal.SIGKILL)
            break
    killed.wait(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "final.safetensors").exists()
    time.sleep(0.1)
    resumed = start("killed", "fast")
    steps = [line.strip() for line in resumed.communicate(timeout=200)[0].splitlines()]
    assert "5" in steps
    assert "1" not in steps  # it went on from a checkpoint
    expected = load_file(tmp_path / "whole" / "final.safetensors")
    got = load_file(tmp_path / "killed" / "final.safetensors")
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor), name
