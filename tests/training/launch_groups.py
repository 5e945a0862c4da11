"""Trainings by groups and by length, whole or resumed, under `torchrun --nproc_per_node N`. Not a test by itself."""

import os
import sys

import torch
import torch.distributed
from safetensors.torch import save_file
from test_groups import TWO, Rows, group_trainer, ranked_rows


def train(folder, strategy, steps, checkpoint):
    """The weights and each process's batches, as tensors."""
    rows = ranked_rows(TWO)
    trainer = group_trainer(
        f"{folder}/{strategy}",
        collator=Rows(),
        rows=rows if strategy == "random" else rows.remove_columns("group"),
        train_sampling_strategy=strategy,
        max_steps=steps,
        save_strategy="steps",
        save_steps=steps - 1,
    )
    trainer.train(resume_from_checkpoint=f"{checkpoint}/{strategy}/checkpoint-{steps - 1}" if checkpoint else None)
    seen = [None] * trainer.args.world_size
    torch.distributed.all_gather_object(seen, trainer.data_collator.seen)
    made = {f"{strategy}.weights.{name}": tensor for name, tensor in trainer.model.state_dict().items()}
    for rank, batches in enumerate(seen):
        made |= {f"{strategy}.seen.{rank}.{step:02}": torch.tensor(batch) for step, batch in enumerate(batches)}
    trainer.accelerator.wait_for_everyone()
    return made


if __name__ == "__main__":
    folder, out, steps, *checkpoint = sys.argv[1:]
    made = {}
    for strategy in ("random", "group_by_length"):
        made |= train(folder, strategy, int(steps), checkpoint[0] if checkpoint else None)
    if torch.distributed.get_rank() == 0:
        save_file({name: tensor.contiguous() for name, tensor in made.items()}, out)
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads now and then abort a process that ends in the usual way
