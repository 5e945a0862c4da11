"""Students made from teachers."""

from distil_nlp.students.adapters import add_lora, merge_adapters
from distil_nlp.students.build import build_student
from distil_nlp.students.describe import StudentDescription, describe_student
from distil_nlp.students.vocabulary import TrimmedVocabulary, trim_vocabulary

__all__ = [
    "StudentDescription",
    "TrimmedVocabulary",
    "add_lora",
    "build_student",
    "describe_student",
    "merge_adapters",
    "trim_vocabulary",
]
