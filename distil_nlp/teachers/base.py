"""What a teacher is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from transformers import PreTrainedModel

from distil_nlp.errors import ModelError
from distil_nlp.signals import Batch, Needs, Shape, Signals


@runtime_checkable
class Teacher(Protocol):
    """Gives signals for a batch, without gradient.

    A teacher may also have ``label_names`` (by which an ensemble tells labels apart), ``fingerprint()`` (by which
    stored outputs know whose they are) and ``flush()`` (called when training ends, however it ends).

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


def as_teacher(teacher: PreTrainedModel | Teacher | Sequence[PreTrainedModel | Teacher]) -> Teacher:
    """Wraps a model; makes an ensemble of several; leaves a teacher as it is.

    Raises:
        ModelError: for anything else.
    """
    from distil_nlp.teachers.ensemble import EnsembleTeacher
    from distil_nlp.teachers.model import ModelTeacher

    if isinstance(teacher, PreTrainedModel):
        return ModelTeacher(teacher)
    if isinstance(teacher, Teacher):
        return teacher
    if isinstance(teacher, list | tuple) and teacher:
        return EnsembleTeacher(teacher) if len(teacher) > 1 else as_teacher(teacher[0])
    adapted = hasattr(teacher, "merge_and_unload")
    raise ModelError(
        "A teacher is a transformers model, an object with shape, input_names, prepare and __call__, or a list.",
        f"Found {'an empty ' if isinstance(teacher, list | tuple) else ''}{type(teacher).__name__}.",
        "Merge its adapters into it: teacher.merge_and_unload()."
        if adapted
        else "Load it first: AutoModelForSequenceClassification.from_pretrained(...), say.",
    )


def fingerprint_of(teacher: Teacher) -> str:
    """What tells a teacher's outputs from any other's.

    Raises:
        ModelError: if it does not say.
    """
    fingerprint = getattr(teacher, "fingerprint", None)
    if fingerprint is None:
        raise ModelError(
            "Outputs are stored under a fingerprint of the teacher that gave them.",
            f"{type(teacher).__name__} has none.",
            "Give it a method fingerprint(), or give a name of your own: StoredTeacher(..., fingerprint='mine-1').",
        )
    found: str = fingerprint()
    return found
