"""Objectives run on tiny models, for every kind of prediction."""

from __future__ import annotations

from functools import cache

import torch
from tiny_models import batch, tiny_model

from distil_nlp.blocks import describe
from distil_nlp.capture import capture, prepare_attention
from distil_nlp.errors import ModelError
from distil_nlp.objectives import OBJECTIVES, Objective
from distil_nlp.signals import Shape

ITEMS = ("example", "token", "next_token", "span")
KINDS = (*ITEMS, "multi_label_classification", "regression")
_HEADS = {
    "multi_label_classification": {"problem_type": "multi_label_classification"},
    "regression": {"num_labels": 1},
}


def item_of(kind: str) -> str:
    return kind if kind in ITEMS else "example"


def models(kind: str = "example", *, family: str | None = None, width: int = 32, dtype: torch.dtype = torch.float32):
    """A student and a teacher of one architecture with different weights, without gradients.

    They are built once: a test that changes more than gradients takes a copy. The student may be narrower.
    """
    pair = _models(kind, family or ("gpt2" if kind == "next_token" else "bert"), width, dtype)
    for model in pair:
        model.zero_grad()
    return pair


@cache
def _models(kind: str, family: str, width: int, dtype: torch.dtype):
    item, head = item_of(kind), _HEADS.get(kind, {})
    narrow = {} if width == 32 else {"hidden_size": width}
    pair = tiny_model(family, item, seed=1, **narrow, **head), tiny_model(family, item, seed=2, **head)
    for model in pair:
        prepare_attention(model.to(dtype), "student")
    return pair


def make(kind: str = "example", **options):
    """A batch for these models."""
    made = batch(item_of(kind), **options)
    generator = torch.Generator().manual_seed(3)
    if kind == "multi_label_classification":
        made["labels"] = torch.randint(0, 2, (len(made["labels"]), 3), generator=generator).float()
    elif kind == "regression":
        made["labels"] = torch.randn(len(made["labels"]), generator=generator)
    return made


def signals(objective: Objective, student, teacher, made):
    """Binds an objective to two models; what it is given of either for a batch."""
    objective.bind(describe(student), describe(teacher))
    ours = capture(student, made, objective.student_needs)
    with torch.no_grad():
        return ours, capture(teacher, made, objective.teacher_needs)


def run(objective: Objective, student, teacher, made, count=None):
    """An objective's term for a batch."""
    return objective(*signals(objective, student, teacher, made), made, count)


@cache
def shapes(kind: str) -> tuple[Shape, Shape]:
    student, teacher = models(kind)
    return describe(student), describe(teacher)


@cache
def supported(name: str, kind: str) -> bool:
    """Whether an objective takes the predictions of a kind, and is any different for it."""
    objective = OBJECTIVES[name]()
    try:
        objective.bind(*shapes(kind))
    except ModelError:
        return False
    return kind in ITEMS or objective.student_needs.head


def pairs(*names: str) -> list[tuple[str, str]]:
    """Objectives, all without names, with each kind of prediction that they support."""
    return [(name, kind) for name in names or OBJECTIVES for kind in KINDS if supported(name, kind)]
