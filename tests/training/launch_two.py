"""One optimizer step under `torchrun --nproc_per_node N`; rank 0 writes the weights. Not a test by itself."""

import os
import sys

import torch
from safetensors.torch import save_file
from test_trainer import rows, seeded_trainer

from distil_nlp.objectives import HiddenStates, TaskLoss
from distil_nlp.training import ScheduleCallback, Switch


class UnevenRows(torch.utils.data.Dataset):
    """Eight rows whose token counts differ between the processes' halves."""

    def __init__(self, item):
        self.rows = sorted(rows(item), key=lambda row: len(row["input_ids"]))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


if __name__ == "__main__":
    folder, item, size, accumulation = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    terms = callbacks = None
    if item == "features":  # the second step does without the head
        item, terms = "example", [TaskLoss(), HiddenStates()]
        callbacks = [ScheduleCallback(terms[0], "weight", Switch(at=0.5, before=1.0, after=0.0))]
    trainer = seeded_trainer(
        folder,
        item=item,
        terms=terms,
        callbacks=callbacks,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation,
        train_sampling_strategy="sequential",
        max_steps=2,
        max_grad_norm=0.5,
    )
    trainer.train_dataset = UnevenRows(item)
    trainer.train()
    if trainer.is_world_process_zero():
        state = {**trainer.model.state_dict(), **{f"o.{k}": v for k, v in trainer.objectives.state_dict().items()}}
        log = trainer.state.log_history[0]
        state["log"] = torch.tensor([log[k] for k in ("loss", *(o.name for o in trainer.objectives), "grad_norm")])
        save_file({k: v.contiguous() for k, v in state.items()}, sys.argv[5])
    trainer.accelerator.wait_for_everyone()
    os._exit(0)  # gloo's threads now and then abort a process that ends in the usual way
