"""What a recipe says of those who teach: several as one, in fewer bits, and stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from distil_nlp.blocks import describe, inner_model
from distil_nlp.data.tasks import Forward
from distil_nlp.errors import RecipeError
from distil_nlp.objectives import Objective
from distil_nlp.recipe import Recipe
from distil_nlp.recipe.teachers import MemberSection
from distil_nlp.teachers import EnsembleTeacher, StoredTeacher, Teacher, quantize
from distil_nlp.teachers.label_sets import label_columns
from distil_nlp.teachers.model import label_names


def make_guide(
    recipe: Recipe, teachers: Mapping[str, PreTrainedModel], labels: Sequence[str] | None
) -> PreTrainedModel | Teacher:
    """What the student is taught by: the mean of all teachers; of one model, itself.

    Args:
        recipe: The recipe.
        teachers: Its teachers, by name, in its order.
        labels: The names of the data's labels, if it has any.

    Raises:
        ModelError: for members that do not go together.
    """
    section, models = recipe.teacher.ensemble, list(teachers.values())
    if section is None or len(models) == 1:
        return models[0]
    return EnsembleTeacher(
        models,
        weights=section.weights,
        by_confidence=section.by_confidence,
        average=section.average,
        labels=labels,
    )


def as_they_teach(recipe: Recipe, models: Mapping[str, PreTrainedModel]) -> dict[str, PreTrainedModel]:
    """Models as they teach: in the dtype, and with weights of the fewer bits, that the recipe says.

    Args:
        recipe: The recipe.
        models: Its teachers, or others, by name; some may be as they teach already.

    Raises:
        DistilError: what quantizes is not installed, or has nothing to change in a teacher.
    """
    members = recipe.teachers
    return {name: _as_it_teaches(members[name], each) if name in members else each for name, each in models.items()}


def _as_it_teaches(member: MemberSection, model: PreTrainedModel) -> PreTrainedModel:
    dtype = None if member.dtype in (None, "auto") else getattr(torch, str(member.dtype))
    if dtype not in (None, model.dtype):  # fine-tuned here, or else it was loaded so
        model = _in_dtype(model, dtype)
    return model if member.quantization is None else quantize(model, member.quantization)


def _in_dtype(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A model as it would be loaded in a dtype, with what always stays in float32."""
    made: Any = type(model).from_pretrained(None, config=model.config, state_dict=model.state_dict(), dtype=dtype)
    if model.can_generate():
        made.generation_config = model.generation_config
    made.config.name_or_path = model.config.name_or_path
    return made.eval()


def make_stored(
    recipe: Recipe, guide: PreTrainedModel | Teacher, folder: Path, objectives: Iterable[Objective]
) -> StoredTeacher | None:
    """The teacher on whose outputs the recipe puts a store; None where it puts none. Nothing is written yet.

    Args:
        recipe: The recipe.
        guide: What teaches.
        folder: Where outputs are stored if the recipe does not say it.
        objectives: What is to be learned from them.

    Raises:
        RecipeError: for an objective that needs more than the logits that are to be stored, with its line.
    """
    section = recipe.teacher.store
    if section is None:
        return None
    whole = [objective.name for objective in objectives if objective.whole_logits]
    if section.top_k is not None and whole:
        raise RecipeError(
            f"{recipe.line_of('teacher.store.top_k')}: of each prediction {section.top_k} logits are to be stored.",
            f"{' and '.join(whole)} would compare all of them, those that are made up, too.",
            "Leave out top_k, or the objective (standardize, if that is why).",
        )
    where = Path(section.folder) if section.folder else folder
    return StoredTeacher(guide, where, top_k=section.top_k, dtype=section.dtype, budget_mb=section.budget_mb)


def knows_all(model: PreTrainedModel, labels: Sequence[str] | None) -> bool:
    """Whether a model's labels are all those of the data, if this has any; their order does not matter."""
    return labels is None or len(_columns(model, labels)) == len(labels)


def by_data_labels(forward: Forward, model: PreTrainedModel, labels: Sequence[str] | None) -> Forward:
    """A model's forward function whose logits are in the order of the data's labels; minus infinity for others.

    Args:
        forward: The model's.
        model: The model.
        labels: The names of the data's labels, if it has any.
    """
    columns = None if labels is None else _columns(model, labels)
    if labels is None or columns is None or columns == list(range(len(labels))):
        return forward

    def placed(batch: Mapping[str, Any]) -> Mapping[str, Any]:
        output = forward(batch)
        logits = np.full((*output["logits"].shape[:-1], len(labels)), -np.inf, dtype=np.float32)
        logits[..., columns] = output["logits"]
        return {**output, "logits": logits}

    return placed


def _columns(model: PreTrainedModel, labels: Sequence[str]) -> list[int]:
    model = inner_model(model)
    names = label_names(model.config, describe(model))
    found: list[int] = label_columns(names, labels, f"The teacher '{model.config.name_or_path}'").tolist()
    return found
