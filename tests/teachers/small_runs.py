"""Rows of uneven length, and trainings on them that take a moment."""

from __future__ import annotations

import torch
from tiny_models import VOCAB, tiny_model
from transformers import TrainingArguments

from distil_nlp.objectives import LogitsKL, TaskLoss
from distil_nlp.signals import Needs
from distil_nlp.training import DistillationTrainer

CPU = torch.device("cpu")
LOGITS = Needs(logits=True)
LENGTHS = (12, 7, 9, 3, 5, 11, 2, 8, 10, 4, 6, 12)


def rows_of_lengths(lengths=LENGTHS, *, item="example", seed=0):
    """Tokenized rows; every third token of masked rows is a prediction that counts."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        ids = torch.randint(5, VOCAB, (length,), generator=generator)
        row = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if item == "example":
            row["labels"] = torch.randint(0, 3, (), generator=generator)
        elif item == "next_token":
            row["labels"] = ids
        else:
            row["labels"] = torch.randint(0, 3, (length,), generator=generator)
            if item == "masked":
                row["labels"] = torch.where(torch.arange(length) % 3 == 1, ids, -100)
        rows.append(row)
    return rows


def collate(rows, *, side="right", width=None):
    """A padded batch."""
    width = width or max(len(row["input_ids"]) for row in rows)
    made = {}
    for name in rows[0]:
        fill = -100 if name == "labels" else 0
        values = [row[name] for row in rows]
        if values[0].dim():
            sizes = [(0, width - len(v)) if side == "right" else (width - len(v), 0) for v in values]
            values = [torch.nn.functional.pad(v, size, value=fill) for v, size in zip(values, sizes, strict=True)]
        made[name] = torch.stack(values)
    return made


def trainer_of(folder, teacher, *, rows=None, item="example", terms=None, callbacks=None, student=None, **arguments):
    """A trainer with dropout, shuffling, Adam and a student of other weights."""
    arguments = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        **arguments,
    }
    torch.manual_seed(0)  # the projections' first weights
    return DistillationTrainer(
        model=student or tiny_model(item=item, seed=1, hidden_size=16),
        teacher=teacher,
        objectives=terms or [TaskLoss(), LogitsKL(temperature=2.0)],
        args=TrainingArguments(output_dir=str(folder), **arguments),
        train_dataset=rows or rows_of_lengths(item=item),
        eval_dataset=rows_of_lengths((4, 9, 3), item=item, seed=5),
        data_collator=collate,
        callbacks=callbacks,
    )


def trained(trainer, **how):
    """The student's weights and the projections after training."""
    trainer.train(**how)
    return {**trainer.model.state_dict(), **{f"o.{k}": v for k, v in trainer.objectives.state_dict().items()}}


def counted(model):
    """Notes how many rows a model is run on, in a list."""
    seen = []

    def count(module, args, kwargs):
        seen.append(len(kwargs["input_ids"] if "input_ids" in kwargs else args[0]))

    model.register_forward_pre_hook(count, with_kwargs=True)
    return seen
