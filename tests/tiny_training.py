"""Arguments of trainings of a few steps, whose steps can be repeated by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainingArguments


def few_steps(folder: Path, **arguments: Any) -> TrainingArguments:
    """Plain gradient descent at one learning rate, a log of each step, and nothing saved, but for what is said."""
    plain = {
        "per_device_train_batch_size": 8,
        "max_steps": 1,
        "learning_rate": 1e-2,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return TrainingArguments(output_dir=str(folder), **{**plain, **arguments})
