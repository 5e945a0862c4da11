"""What a teacher is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from transformers import PreTrainedModel

from distil_nlp.errors import ModelError
from distil_nlp.signals import Batch, Needs, Shape, Signals


@runtime_checkable
class Teacher(Protocol):
    """Gives signals for a batch, without gradient.

    Attributes:
        shape: Its measures.
        input_names: Names of the columns that it reads.
    """

    shape: Shape
    input_names: frozenset[str]

    def __call__(self, batch: Batch, needs: Needs) -> Signals:
        """Signals for a batch."""
        ...

    def prepare(self, needs: Needs, device: torch.device) -> None:
        """Called once, before the first batch, with all that will ever be needed."""
        ...


def as_teacher(teacher: PreTrainedModel | Teacher) -> Teacher:
    """Wraps a model; leaves a teacher as it is.

    Raises:
        ModelError: for anything else.
    """
    from distil_nlp.teachers.model import ModelTeacher

    if isinstance(teacher, PreTrainedModel):
        return ModelTeacher(teacher)
    if isinstance(teacher, Teacher):
        return teacher
    raise ModelError(
        "A teacher is a transformers model or an object with shape, input_names, prepare and __call__.",
        f"Found {type(teacher).__name__}.",
        "Load it first: AutoModelForSequenceClassification.from_pretrained(...), say.",
    )
