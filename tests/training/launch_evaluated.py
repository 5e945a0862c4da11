"""Evaluations of rows that do not divide evenly, under `torchrun --nproc_per_node N`. Not a test by itself."""

import json
import os
import sys
from pathlib import Path

from test_trainer import rows, seeded_trainer

from distil_nlp.objectives import HiddenStates, LogitsKL, TaskLoss

if __name__ == "__main__":
    folder, out = sys.argv[1:]
    found = {}
    for item in ("example", "token"):
        terms = [TaskLoss(), LogitsKL(), HiddenStates()]
        trainer = seeded_trainer(folder, item=item, terms=terms, per_device_eval_batch_size=2)
        for count in (8, 7, 5):
            metrics = trainer.evaluate(rows(item)[:count])
            found |= {f"{item}.{count}.{name}": metrics[f"eval_{name}"] for name in ("loss", "logits_kl")}
    if trainer.is_world_process_zero():
        Path(out).write_text(json.dumps(found))
    trainer.accelerator.wait_for_everyone()
    os._exit(0)  # gloo's threads now and then abort a process that ends in the usual way
