"""Distil BERT- and GPT-style teachers into small students, and ship them as quantized ONNX."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "DistillationTrainer": "distil_nlp.training",
    "EnsembleTeacher": "distil_nlp.teachers",
    "ModelTeacher": "distil_nlp.teachers",
    "Recipe": "distil_nlp.recipe",
    "StoredTeacher": "distil_nlp.teachers",
    "build_student": "distil_nlp.students",
}
__all__ = ["DistillationTrainer", "EnsembleTeacher", "ModelTeacher", "Recipe", "StoredTeacher", "build_student"]

if TYPE_CHECKING:
    from distil_nlp.recipe import Recipe
    from distil_nlp.students import build_student
    from distil_nlp.teachers import EnsembleTeacher, ModelTeacher, StoredTeacher
    from distil_nlp.training import DistillationTrainer


def __getattr__(name: str) -> Any:
    """Imports on first use, so that the command line answers at once."""
    if name not in _WHERE:
        raise AttributeError(f"module 'distil_nlp' has no attribute '{name}'")
    return getattr(importlib.import_module(_WHERE[name]), name)
