"""What a recipe says of training, as transformers takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from distil_nlp.errors import RecipeError
from distil_nlp.recipe import Recipe

# What a recipe may overrule; every other argument has transformers' own default.
TRAINING_DEFAULTS = {
    "report_to": "none",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "logging_steps": 20,
}


def rows_trained_on(arguments: TrainingArguments, rows: int) -> int:
    """How many of a training's rows it reads at all."""
    if arguments.max_steps <= 0:
        return rows
    batch = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    return min(rows, arguments.max_steps * batch)


def make_training_arguments(
    recipe: Recipe, arguments: dict[str, Any], output_dir: Path, seed: int | None = None
) -> TrainingArguments:
    """A section of the recipe as ``TrainingArguments``, under its seed or another one.

    Raises:
        RecipeError: for arguments that do not go together, or that this machine cannot serve.
    """
    values = {**TRAINING_DEFAULTS, "dataloader_pin_memory": torch.cuda.is_available(), **arguments}
    try:
        return TrainingArguments(output_dir=str(output_dir), seed=recipe.seed if seed is None else seed, **values)
    except (ValueError, ImportError) as error:
        raise RecipeError(
            "The training arguments do not go together, or not with this machine.",
            str(error),
            f"Correct `training` (a stage's, perhaps) or `teacher.fine_tune` ({recipe.line_of('training')}).",
        ) from None
