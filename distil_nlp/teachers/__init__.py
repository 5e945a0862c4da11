"""Teachers: whatever gives signals for a batch."""

from distil_nlp.teachers.base import Teacher, as_teacher
from distil_nlp.teachers.model import ModelTeacher

__all__ = ["ModelTeacher", "Teacher", "as_teacher"]
