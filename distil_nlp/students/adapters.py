"""Students that train low-rank adapters instead of all their weights."""

from __future__ import annotations

from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from distil_nlp.blocks import find_stacks
from distil_nlp.errors import MissingExtraError, ModelError, first_line


def add_lora(
    student: PreTrainedModel, *, rank: int = 8, alpha: float = 16, dropout: float = 0.0, target_modules: Any = None
) -> nn.Module:
    r"""Freezes a student and gives its blocks' linear layers adapters to train: :math:`W + (\alpha / r) B A`.

    A head that does not predict over the vocabulary is trained whole. :class:`~distil_nlp.DistillationTrainer` takes
    the result as any student.

    Args:
        student: The student, which is changed.
        rank: r, the inner width of B and A.
        alpha: Scale of the adapters.
        dropout: Probability by which inputs of A are zeroed in training.
        target_modules: Names of the layers that get one, as PEFT takes them; all linear layers of blocks if None.

    Returns:
        A ``peft.PeftModel``; :func:`merge_adapters` makes an ordinary model of it.

    Raises:
        MissingExtraError: PEFT is not installed.
        ModelError: No layer has one of the names.

    References:
        Hu et al. (2021), arXiv:2106.09685, section 4.1.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtraError("peft", "peft") from error
    blocks = tuple(f"{stack.path}." for stack in find_stacks(student).values())
    inside = [name for name, part in student.named_modules() if name.startswith(blocks) and _is_linear(part)]
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type] # any number works
        lora_dropout=dropout,
        target_modules=target_modules or inside,
        modules_to_save=_heads(student) or None,
    )
    try:
        return get_peft_model(student, config)
    except ValueError as error:
        linear = sorted({name.rpartition(".")[2] for name in inside})
        raise ModelError(
            f"Adapters were to be added to {target_modules}.",
            first_line(error),
            f"The linear layers of {type(student).__name__} are named {', '.join(linear)}.",
        ) from error


def _is_linear(part: nn.Module) -> bool:
    return isinstance(part, (nn.Linear, Conv1D))


def _heads(student: PreTrainedModel) -> list[str]:
    """Names of what stands on the backbone, but for a head over the vocabulary."""
    if student.get_output_embeddings() is not None:
        return []
    children = student.named_children()
    return [
        name for name, part in children if part is not student.base_model and next(part.parameters(), None) is not None
    ]


def refuse_adapters(model: nn.Module) -> None:
    """Refuses a model with adapters, around it or put into it, where an ordinary one is made of its weights.

    Raises:
        ModelError: naming the way out.
    """
    if hasattr(model, "peft_config"):
        raise ModelError(
            "A smaller model takes over another's own weights.",
            f"This {type(model).__name__} has adapters beside them.",
            "Merge its adapters into it: model = peft_model.merge_and_unload().",
        )


def merge_adapters(model: nn.Module) -> PreTrainedModel:
    """An ordinary model with adapters added to its weights; one without adapters as it is."""
    if not hasattr(model, "merge_and_unload"):
        return cast(PreTrainedModel, model)
    merged: PreTrainedModel = model.merge_and_unload().requires_grad_(True)  # type: ignore[operator]
    return merged
