"""Two epochs on stored outputs, as they are or under `torchrun`; rank 0 writes the weights. Not a test by itself."""

import os
import sys

import torch
from safetensors.torch import save_file
from small_runs import counted, trained, trainer_of
from tiny_models import tiny_model

from distil_nlp.teachers import StoredTeacher


def run(folder, size):
    """The trained weights, and on how many rows and batches the teacher ran in all processes."""
    live = tiny_model(seed=2, initializer_range=0.3)
    seen = counted(live)
    student = tiny_model(seed=1, hidden_size=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    options = {"student": student, "per_device_train_batch_size": size, "optim": "sgd"}
    trainer = trainer_of(folder, StoredTeacher(live, f"{folder}/store"), **options)
    state = trained(trainer)
    ran = trainer.accelerator.reduce(torch.tensor([float(sum(seen)), float(len(seen))]), "sum")
    return trainer, {**{name: tensor.contiguous() for name, tensor in state.items()}, "ran": ran}


if __name__ == "__main__":
    from distil_nlp.teachers import store

    store.SHARD_SECONDS = 0.0  # so that either process finds what the other has stored
    trainer, state = run(sys.argv[1], int(sys.argv[2]))
    if trainer.is_world_process_zero():
        save_file(state, sys.argv[3])
    trainer.accelerator.wait_for_everyone()
    os._exit(0)  # gloo's threads now and then abort a process that ends in the usual way
