"""Teachers: whatever gives signals for a batch."""

from distil_nlp.teachers.base import Teacher, as_teacher
from distil_nlp.teachers.ensemble import EnsembleTeacher
from distil_nlp.teachers.model import ModelTeacher
from distil_nlp.teachers.quantized import quantize
from distil_nlp.teachers.stored import StoredTeacher

__all__ = ["EnsembleTeacher", "ModelTeacher", "StoredTeacher", "Teacher", "as_teacher", "quantize"]
