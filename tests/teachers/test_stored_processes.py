"""Two processes that store and read in one folder."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from launch_stored import run
from safetensors.torch import load_file

HERE = Path(__file__).parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


def test_two_processes_share_a_store_and_are_one_big_batch(tmp_path):
    """In the second epoch the rows come in another order: each process reads what the other has written."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = [str(HERE / "launch_stored.py"), str(tmp_path / "two"), "2", str(tmp_path / "two.safetensors")]
    done = subprocess.run([*launcher, *script], env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = run(tmp_path / "one", 4)[1], load_file(tmp_path / "two.safetensors")
    assert two.pop("ran").tolist() == [12, 6]  # rows and batches in the first epoch, none in the second
    assert one.pop("ran").tolist() == [12, 3]
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
    assert {path.name.split("-")[1] for path in tmp_path.glob("two/store/*/shard-*")} == {"0", "1"}
