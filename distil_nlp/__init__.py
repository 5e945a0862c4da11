"""Distil BERT- and GPT-style teachers into small students, and ship them as quantized ONNX."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "DistilError": "distil_nlp.errors",
    "DistillationTrainer": "distil_nlp.training",
    "EnsembleTeacher": "distil_nlp.teachers",
    "LayerMapping": "distil_nlp.mapping",
    "ModelTeacher": "distil_nlp.teachers",
    "Projection": "distil_nlp.projection",
    "Recipe": "distil_nlp.recipe",
    "StoredTeacher": "distil_nlp.teachers",
    "build_student": "distil_nlp.students",
    "describe_student": "distil_nlp.students",
    "export_onnx": "distil_nlp.export",
    "open_onnx": "distil_nlp.export",
    "trim_vocabulary": "distil_nlp.students",
}
__all__ = [
    "DistilError",
    "DistillationTrainer",
    "EnsembleTeacher",
    "LayerMapping",
    "ModelTeacher",
    "Projection",
    "Recipe",
    "StoredTeacher",
    "build_student",
    "describe_student",
    "export_onnx",
    "open_onnx",
    "trim_vocabulary",
]

if TYPE_CHECKING:
    from distil_nlp.errors import DistilError
    from distil_nlp.export import export_onnx, open_onnx
    from distil_nlp.mapping import LayerMapping
    from distil_nlp.projection import Projection
    from distil_nlp.recipe import Recipe
    from distil_nlp.students import build_student, describe_student, trim_vocabulary
    from distil_nlp.teachers import EnsembleTeacher, ModelTeacher, StoredTeacher
    from distil_nlp.training import DistillationTrainer


def __getattr__(name: str) -> Any:
    """Imports on first use, so that the command line answers at once."""
    if name not in _WHERE:
        raise AttributeError(f"module 'distil_nlp' has no attribute '{name}'")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    """What completion offers: also what has not been imported yet."""
    return sorted({*globals(), *__all__})
