"""Students made from teachers."""

from distil_nlp.students.build import build_student

__all__ = ["build_student"]
