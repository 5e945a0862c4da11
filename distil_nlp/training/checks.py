"""What a trainer refuses before it trains."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel, Trainer

from distil_nlp.data.writing import unset_ignored
from distil_nlp.errors import ModelError, TrainingError
from distil_nlp.objectives import Objective, TaskLoss
from distil_nlp.teachers import Teacher


def check_arguments(trainer: Trainer) -> None:
    """Refuses what a distillation loss would pass over in silence, or cannot look into.

    Raises:
        ModelError: naming the argument and the way out.
    """
    args = trainer.args
    options = args.gradient_checkpointing_kwargs
    reentrant = args.gradient_checkpointing and isinstance(options, dict) and options.get("use_reentrant")
    launch = "Start one process a GPU (`torchrun --nproc_per_node N ...`), or set CUDA_VISIBLE_DEVICES to one GPU."
    refused = {
        "compute_loss_func": (trainer.compute_loss_func, "Write it as an Objective, and add it to the list."),
        "use_reentrant=True": (reentrant, "Use False: reentrant checkpoints give hidden states without a gradient."),
        f"{args.n_gpu} GPUs in one process (torch.nn.DataParallel)": (args.n_gpu > 1, launch),
        "DeepSpeed": (trainer.is_deepspeed_enabled, launch),
        "FSDP": (trainer.is_fsdp_enabled, launch),
    }
    for name, (given, fix) in refused.items():
        if given:
            raise ModelError(
                "The loss is the sum of the objectives, which look inside both models.",
                f"Found {name}, which does not go with that.",
                fix,
            )


def check_apart(student: nn.Module, teacher: Any) -> None:
    """Refuses the student as its own teacher, whose weights are frozen.

    Raises:
        ModelError: if all weights of the student are a teacher's.
    """
    own = set(map(id, student.parameters()))
    if any(own <= set(map(id, model.parameters())) for model in _models(teacher)):
        raise ModelError(
            "The student learns from a teacher, which does not change.",
            "They are one model.",
            "Give a copy as teacher (copy.deepcopy(student)), or another checkpoint.",
        )


def _models(teacher: Any) -> Iterator[nn.Module]:
    if isinstance(teacher, nn.Module):
        yield teacher
    elif isinstance(teacher, list | tuple):
        for each in teacher:
            yield from _models(each)
    elif teacher is not None:
        yield from _models([*getattr(teacher, "members", ()), getattr(teacher, "model", None)])


def make_savable(model: PreTrainedModel) -> None:
    """Unsets the generation settings that a model ignores anyhow.

    transformers refuses to save them once others have changed, as they do when it takes over the tokenizer's special
    tokens: after the training.
    """
    if model.can_generate():
        unset_ignored(model.generation_config)


def train_ends(model: PreTrainedModel) -> None:
    """Has the embedding of an end of text trained that is also the padding's, which torch would leave as it is."""
    ends, embedding = getattr(model.config.get_text_config(), "eos_token_id", None), model.get_input_embeddings()
    padding = getattr(embedding, "padding_idx", None)
    if padding is not None and padding in (ends if isinstance(ends, list) else [ends]):
        embedding.padding_idx = None  # type: ignore[assignment] # what is masked has no gradient anyhow


def checked_objectives(
    objectives: Sequence[Objective] | None, teacher: Teacher | None, *, label_smoothing: float = 0.0
) -> list[Objective]:
    """The objectives, or the default without a teacher.

    Args:
        objectives: As given.
        teacher: The teacher, if there is one.
        label_smoothing: ``TrainingArguments.label_smoothing_factor``, which is handed to the task loss.

    Raises:
        ModelError: without objectives, with one given twice, with one that lacks its teacher, or with label smoothing
            and no task loss.
    """
    objectives = [TaskLoss()] if objectives is None and teacher is None else list(objectives or ())
    names = [objective.name for objective in objectives]
    if not objectives or len(set(names)) < len(names):
        raise ModelError(
            "A DistillationTrainer trains under at least one objective, each of them once.",
            f"Found {names}.",
            "Give e.g. objectives=[TaskLoss(weight=0.5), LogitsKL(weight=0.5, temperature=4.0)].",
        )
    lonely = [objective.name for objective in objectives if objective.uses_teacher and teacher is None]
    if lonely:
        raise ModelError(f"{', '.join(lonely)} need a teacher.", "There is none.", "Give teacher=...")
    if label_smoothing:
        smoothed = [objective for objective in objectives if isinstance(objective, TaskLoss)]
        if not smoothed:
            raise ModelError(
                f"label_smoothing_factor={label_smoothing} smooths the labels of task_loss.",
                f"The objectives are {', '.join(names)}.",
                "Add TaskLoss(), or leave label_smoothing_factor at 0.",
            )
        smoothed[0].label_smoothing = label_smoothing
    return objectives


def refuse_non_finite(terms: Mapping[str, float], *, step: int) -> None:
    """Stops a training whose loss is not a number any more.

    Raises:
        TrainingError: with every term.
    """
    if not all(map(math.isfinite, terms.values())):
        raise TrainingError(
            f"Training stopped at step {step}: the loss is not finite.",
            "Terms: " + ", ".join(f"{name} = {value:.4g}" for name, value in terms.items()) + ".",
            "Lower the learning rate or the weight of the broken term; checkpoints saved so far are kept.",
        )
