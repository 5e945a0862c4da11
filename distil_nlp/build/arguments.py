"""What a recipe says of training, as transformers takes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from distil_nlp.errors import RecipeError, near_match
from distil_nlp.evaluation.metrics import METRICS, higher_is_better
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
    recipe: Recipe,
    arguments: dict[str, Any],
    output_dir: Path,
    seed: int | None = None,
    *,
    metrics: Sequence[str] = (),
) -> TrainingArguments:
    """A section of the recipe as ``TrainingArguments``, under its seed or another one.

    The best checkpoint is that of the lowest loss or term of it, or of the best value of a metric; transformers would
    take the highest of whatever does not end in ``loss``.

    Args:
        recipe: The recipe.
        arguments: The section.
        output_dir: Where checkpoints go.
        seed: The recipe's if None.
        metrics: Those that follow while the model trains.

    Raises:
        RecipeError: for arguments that do not go together, or that this machine cannot serve.
    """
    values = {**TRAINING_DEFAULTS, "dataloader_pin_memory": torch.cuda.is_available(), **arguments}
    if (best := values.get("metric_for_best_model")) is not None:
        metric = _metric(best, metrics)
        values.setdefault("greater_is_better", metric is not None and higher_is_better(metric))
    try:
        return TrainingArguments(output_dir=str(output_dir), seed=recipe.seed if seed is None else seed, **values)
    except (ValueError, ImportError) as error:
        raise RecipeError(
            "The training arguments do not go together, or not with this machine.",
            str(error),
            f"Correct `training` (a stage's, perhaps) or `teacher.fine_tune` ({recipe.line_of('training')}).",
        ) from None


def check_training(
    recipe: Recipe,
    key: str,
    arguments: TrainingArguments,
    *,
    of: str,
    terms: Sequence[str],
    metrics: Sequence[str],
    rows: int,
) -> None:
    """Refuses what transformers would stop at once the training has begun.

    Args:
        recipe: The recipe.
        key: Of the section.
        arguments: As :func:`make_training_arguments` makes them of it.
        of: Whose training it is.
        terms: Those of the loss, by name.
        metrics: Those that follow while the model trains.
        rows: To train on.

    Raises:
        RecipeError: for a best checkpoint by what no evaluation gives, or batches of more rows than there are.
    """
    best, given = arguments.metric_for_best_model, ["loss", *terms, *metrics]
    if best is not None and best.removeprefix("eval_") not in given and _metric(best, metrics) is None:
        key = f"{key}.metric_for_best_model"
        raise RecipeError(
            f"{recipe.line_of(key)}: the best checkpoint is to be found by {best!r} (`{key}`).",
            f"An evaluation of {of} does not give it.",
            near_match(best, given),
        )
    if arguments.dataloader_drop_last and rows < arguments.train_batch_size:
        key = f"{key}.dataloader_drop_last"
        raise RecipeError(
            f"{recipe.line_of(key)}: the last batch is to be left out if it is not full (`{key}`).",
            f"There are {rows} rows to train on, and a batch has {arguments.train_batch_size}, so none is left.",
            "Use smaller batches, or leave it out.",
        )


def _metric(best: str, metrics: Sequence[str]) -> str | None:
    """Which metric gives a value of this name: one so called, or one of the Hub's that gives several values."""
    name = best.removeprefix("eval_")
    several = (metric for metric in metrics if metric not in METRICS and name.startswith(f"{metric}_"))
    return name if name in metrics else next(several, None)
