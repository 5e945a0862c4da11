"""An objective of the user's own, whose module is made at random before any trainer sees it, in two processes."""

import subprocess
import sys

import torch
from safetensors.torch import load_file
from test_processes import ENVIRONMENT

SCRIPT = """
import os, sys
import torch
from safetensors.torch import save_file
from test_trainer import make_trainer
from distil_nlp.objectives import Objective
from distil_nlp.signals import Needs

RANK = int(os.environ["RANK"])

class Probe(Objective):
    name = "probe"
    uses_teacher = False

    def __init__(self):
        super().__init__()
        torch.manual_seed(RANK)
        self.probe = torch.nn.Linear(16, 1)
        self.register_buffer("centre", torch.rand(3, 4).t())
        self.register_buffer("seen", torch.tensor(RANK), persistent=False)
        self.student_needs = Needs(hidden_states=frozenset({1}))

    def count(self, batch):
        return torch.tensor(len(batch["labels"]))

    def values(self, student, teacher, batch):
        return self.probe(student.hidden_states[1][:, 0]).squeeze(-1) ** 2

trainer = make_trainer(sys.argv[1], terms=[Probe()], teacher=False, per_device_train_batch_size=4, max_steps=2)
def state(when):
    probe = trainer.objectives[0]
    tensors = {**probe.state_dict(), "seen": probe.seen}
    return {f"{when}.{name}": tensor.clone().contiguous() for name, tensor in tensors.items()}
first = state("first")
trainer.train()
save_file(first | state("last"), f"{sys.argv[1]}/{RANK}.safetensors")
trainer.accelerator.wait_for_everyone()
os._exit(0)
"""


def test_what_an_objective_makes_itself_is_rank_0s_in_all_processes(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, str(script), str(tmp_path)], env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-9000:]
    zero, one = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    torch.manual_seed(0)
    probe, centre = torch.nn.Linear(16, 1), torch.rand(3, 4).t()
    assert torch.equal(one["first.probe.weight"], probe.weight)
    assert torch.equal(one["first.centre"], centre)
    assert one["first.seen"] == 0
    assert not torch.equal(zero["last.probe.weight"], probe.weight)  # it has learned
    assert zero.keys() == one.keys()
    for name, tensor in zero.items():
        assert torch.equal(one[name], tensor), name
