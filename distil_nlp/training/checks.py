"""What a trainer refuses before it trains."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainingArguments

from distil_nlp.blocks import find_blocks, inner_model, prediction_item
from distil_nlp.data.align import fit_padding
from distil_nlp.data.writing import unset_ignored
from distil_nlp.errors import ModelError, TrainingError
from distil_nlp.functional.divergence import one_vocabulary
from distil_nlp.label_names import as_compared
from distil_nlp.objectives import LogitsObjective, Objective, TaskLoss
from distil_nlp.signals import Needs, Shape
from distil_nlp.teachers import EnsembleTeacher, ModelTeacher, StoredTeacher, Teacher
from distil_nlp.teachers.model import label_names

_EXAMPLE = "Give e.g. objectives=[TaskLoss(weight=0.5), LogitsKL(weight=0.5, temperature=4.0)]."


def check_arguments(args: TrainingArguments, trainer: Trainer | None = None) -> None:
    """Refuses what a distillation loss would pass over in silence, or cannot look into.

    Args:
        args: The arguments.
        trainer: Theirs, if there is one yet.

    Raises:
        ModelError: naming the argument and the way out.
    """
    options: Any = args.gradient_checkpointing_kwargs or {}
    for_torch = options.keys() - {"every_n_layers", "offload"}  # without any, transformers gives use_reentrant=False
    reentrant = args.gradient_checkpointing and for_torch and options.get("use_reentrant", True)
    launch = "Start one process a GPU (`torchrun --nproc_per_node N ...`), or set CUDA_VISIBLE_DEVICES to one GPU."
    refused = {
        "compute_loss_func": (
            getattr(trainer, "compute_loss_func", None),
            "Write it as an Objective, and add it to the list.",
        ),
        "use_reentrant=True": (reentrant, "Set it to False: reentrant checkpoints give hidden states no gradient."),
        f"{args.n_gpu} GPUs in one process (torch.nn.DataParallel)": (args.n_gpu > 1, launch),
        "DeepSpeed": (args.deepspeed or getattr(trainer, "is_deepspeed_enabled", False), launch),
        "FSDP": (args.fsdp or getattr(trainer, "is_fsdp_enabled", False), launch),
    }
    for name, (given, fix) in refused.items():
        if given:
            raise ModelError(
                "The loss is the sum of the objectives, which look inside both models.",
                f"Found {name}, which does not go with that.",
                fix,
            )


def check_kind_of(args: Any) -> None:
    """Refuses a teacher in the place of the arguments.

    Raises:
        ModelError: for what is not ``TrainingArguments``.
    """
    if args is not None and not isinstance(args, TrainingArguments):
        raise ModelError(
            "A DistillationTrainer takes model and args in this order, like a Trainer, and all else by name.",
            f"As args there is an object of type {type(args).__name__}.",
            "Give teacher=..., args=TrainingArguments(...).",
        )


def check_models(student: Any, teacher: Any, model_init: Any = None) -> None:
    """Refuses what is no model, the student as its own teacher, and two models of different vocabularies.

    Raises:
        ModelError: for ``model_init``, for a student that is not loaded, one whose weights are all a teacher's, which
            are frozen, and one whose embedding has another number of tokens than padding can explain.
    """
    if model_init is not None:
        raise ModelError(
            "`model_init` makes a student anew whenever training begins, as hyperparameter_search wants it.",
            "Objectives are fitted to one student, and learn along with it.",
            "Give model=..., and write the search as a loop that makes student, objectives and trainer for each trial.",
        )
    if not isinstance(student, nn.Module) or not isinstance(inner_model(student), PreTrainedModel):
        raise ModelError(
            "A DistillationTrainer trains a transformers model that is loaded.",
            f"Found {student!r}." if isinstance(student, str) else f"Found an object of type {type(student).__name__}.",
            "Give build_student(teacher, num_layers=3), say, or AutoModelFor...from_pretrained(...).",
        )
    own = set(map(id, student.parameters()))
    if any(own <= set(map(id, model.parameters())) for model in _models(teacher)):
        raise ModelError(
            "The student learns from a teacher, which does not change.",
            "They are one model.",
            "Give a copy as teacher (copy.deepcopy(student)), or another checkpoint.",
        )
    for model in _models(teacher):
        _check_vocabulary(student, model)


def _check_vocabulary(student: nn.Module, teacher: nn.Module) -> None:
    ours, theirs = (_vocabulary(inner_model(model)) for model in (student, teacher))
    if ours is None or theirs is None or one_vocabulary(ours, theirs):
        return
    raise ModelError(
        "Student and teacher read the same token ids, so they need one tokenizer.",
        f"The student has a vocabulary of {ours:,} tokens, the teacher one of {theirs:,}.",
        "Make the student from the teacher (build_student), or take a checkpoint with the teacher's tokenizer. Of a "
        "student with a trimmed vocabulary trim the teacher too (distil_nlp.students.trim_embeddings).",
    )


def _vocabulary(model: nn.Module) -> int | None:
    config = getattr(model, "config", None)
    return getattr(config.get_text_config(), "vocab_size", None) if isinstance(config, PretrainedConfig) else None


def _models(teacher: Any) -> Iterator[nn.Module]:
    """The models that are given the student's batches; a teacher of the user's own may read other columns."""
    if isinstance(teacher, nn.Module):
        yield teacher
    elif isinstance(teacher, ModelTeacher):
        yield teacher.model
    elif isinstance(teacher, list | tuple | EnsembleTeacher):
        for each in teacher.members if isinstance(teacher, EnsembleTeacher) else teacher:
            yield from _models(each)
    elif isinstance(teacher, StoredTeacher):
        yield from _models(teacher.live)


def fit_teachers(teacher: Teacher | None, tokenizer: Any) -> None:
    """Names the padding of the student's batches in teachers that classify: decoders read the last token before it.

    transformers does so in the student, when it is trained.
    """
    padded = getattr(tokenizer, "pad_token_id", None) is not None
    for model in _models(teacher):
        if padded and prediction_item(model) == "example":  # type: ignore[arg-type]
            config: Any = model.config
            fit_padding(config.get_text_config(), tokenizer)


def check_inside(student: Any, item: str | None, needs: Needs) -> None:
    """Refuses a student inside which positions cannot be found.

    Args:
        student: As given, with the adapters of PEFT.
        item: What one of its predictions is (:class:`~distil_nlp.signals.Shape`).
        needs: What is read of it.

    Raises:
        ModelError: if its blocks cannot be told apart or are skipped at random, virtual tokens of PEFT stand where the
            teacher has none, or its predictions are at labelled tokens alone.
    """
    inside, model = needs.hidden_states or needs.attentions, inner_model(student)
    if inside:
        blocks = find_blocks(model)
        if needs.attentions or needs.hidden_states - {0, blocks.num_layers}:
            _check_layerdrop(model)
    if getattr(model, "sparse_prediction", False):
        raise ModelError(
            "Predictions are compared token by token.",
            f"{type(model).__name__} gives those of labelled tokens alone (sparse_prediction).",
            "Load it with from_pretrained(..., sparse_prediction=False): its loss is the same.",
        )
    prompts = [each for each in getattr(student, "peft_config", {}).values() if each.is_prompt_learning]
    if prompts and (inside or item != "example"):
        raise ModelError(
            "Student and teacher are compared token by token.",
            f"The student has virtual tokens (PEFT's {prompts[0].peft_type.value}), which the teacher has not.",
            "Use LoRA, or distil the predictions of a sequence classifier only (task_loss, logits_kl).",
        )


def _check_layerdrop(model: PreTrainedModel) -> None:
    for name, module in model.named_modules():
        share = getattr(module, "layerdrop", 0)
        if isinstance(share, int | float) and share > 0:
            raise ModelError(
                "Layers of student and teacher are matched by their numbers.",
                f"The student skips blocks at random while it trains (LayerDrop {share:g}), so that numbers shift.",
                f"Set student.{f'{name}.' if name else ''}layerdrop = 0, or load it with such a configuration.",
            )


def check_labels(
    student: PreTrainedModel, shape: Shape, teacher: Teacher | None, objectives: Sequence[Objective]
) -> None:
    """Refuses a teacher that has the student's labels in another order.

    Raises:
        ModelError: naming both orders.
    """
    ours, theirs = label_names(student.config, shape), getattr(teacher, "label_names", None)
    if ours is None or theirs is None or not any(isinstance(each, LogitsObjective) for each in objectives):
        return
    one, other = as_compared(ours, theirs)
    if one != other and sorted(one) == sorted(other):
        raise ModelError(
            "Student and teacher are compared label by label, in the order of their logits.",
            f"The student's are ({', '.join(ours)}), the teacher's ({', '.join(theirs)}).",
            "Give teacher=EnsembleTeacher([teacher], labels=[the student's names]), which puts them in order.",
        )


def make_savable(model: PreTrainedModel) -> None:
    """Unsets the generation settings that a model ignores anyhow.

    transformers refuses to save them once others have changed, as they do when it takes over the tokenizer's special
    tokens: after the training.
    """
    if model.can_generate():
        unset_ignored(model.generation_config)


def train_ends(model: PreTrainedModel) -> None:
    """Has the embedding of an end of text trained that is also the padding's, which torch would leave as it is."""
    try:
        embedding = model.get_input_embeddings()
    except NotImplementedError:  # CANINE reads characters, by several tables
        return
    ends = getattr(model.config.get_text_config(), "eos_token_id", None)
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
        ModelError: without objectives, with names or classes in their place, with one given twice, with one that lacks
            its teacher, or with label smoothing and no task loss.
    """
    objectives = [TaskLoss()] if objectives is None and teacher is None else _listed(objectives)
    names = [objective.name for objective in objectives]
    if not objectives or len(set(names)) < len(names):
        raise ModelError(
            "A DistillationTrainer trains under at least one objective, each of them once.", f"Found {names}.", _EXAMPLE
        )
    lonely = [objective.name for objective in objectives if objective.uses_teacher and teacher is None]
    if lonely:
        verb = "need" if lonely[1:] else "needs"
        raise ModelError(f"{', '.join(lonely)} {verb} a teacher.", "There is none.", "Give teacher=...")
    _smooth([objective for objective in objectives if isinstance(objective, TaskLoss)], label_smoothing, names)
    return objectives


def _smooth(of_labels: list[TaskLoss], factor: float, names: list[str]) -> None:
    """Hands the trainer's label smoothing to the task loss, in place of another trainer's."""
    asked = f"label_smoothing_factor={factor} smooths the labels of task_loss."
    if factor and not of_labels:
        found = f"The objectives are {', '.join(names)}."
        raise ModelError(asked, found, "Add TaskLoss(), or leave label_smoothing_factor at 0.")
    for objective in of_labels:
        if factor and objective.label_smoothing not in (0.0, factor):
            found = f"It was given label_smoothing={objective.label_smoothing} itself."
            raise ModelError(asked, found, "Leave one of the two out.")
        objective.label_smoothing_factor = factor


def _listed(objectives: Any) -> list[Objective]:
    alone = isinstance(objectives, Objective | str | type)
    given = [objectives] if alone else list(objectives or ())
    strange = [each for each in given if not isinstance(each, Objective)]
    if alone or strange:
        raise ModelError(
            "The objectives of a DistillationTrainer are a list of objects.",
            f"Found {strange[0] if strange else objectives!r}.",
            _EXAMPLE,
        )
    return given


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
