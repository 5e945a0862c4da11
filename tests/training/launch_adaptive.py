"""Three optimizer steps with an adaptive weighting, alone or under torchrun; rank 0 writes the state. Not a test."""

import os
import sys

import torch
from adaptive import adaptive_trainer, everything, logs_of
from safetensors.torch import save_file
from test_trainer import rows

from distil_nlp.objectives import Attentions, HiddenStates, LogitsKL, TaskLoss
from distil_nlp.training import WEIGHTINGS

if __name__ == "__main__":
    folder, method, size, accumulation, path = sys.argv[1:]
    trainer = adaptive_trainer(
        folder,
        terms=[TaskLoss(), LogitsKL(), HiddenStates(mapping="emd"), Attentions(mapping="attention", weight=20.0)],
        weighting=WEIGHTINGS[method](**({"every": 1} if method == "grad_norm" else {})),
        per_device_train_batch_size=int(size),
        gradient_accumulation_steps=int(accumulation),
        train_sampling_strategy="sequential",
    )
    trainer.train_dataset = sorted(rows(), key=lambda row: len(row["input_ids"]))
    trainer.train()
    if trainer.is_world_process_zero():
        state = everything(trainer)
        for number, log in enumerate(logs_of(trainer)):
            state |= {f"log{number}.{k}": torch.tensor(float(v)) for k, v in log.items() if isinstance(v, float)}
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    trainer.accelerator.wait_for_everyone()
    os._exit(0)  # gloo's threads now and then abort a process that ends in the usual way
