"""Students made from teachers."""

from distil_nlp.students.adapters import add_lora, merge_adapters
from distil_nlp.students.build import build_student
from distil_nlp.students.choice import choose_blocks
from distil_nlp.students.describe import StudentDescription, describe_student
from distil_nlp.students.embeddings import trim_embeddings
from distil_nlp.students.vocabulary import TrimmedVocabulary, trim_vocabulary

__all__ = [
    "StudentDescription",
    "TrimmedVocabulary",
    "add_lora",
    "build_student",
    "choose_blocks",
    "describe_student",
    "merge_adapters",
    "trim_embeddings",
    "trim_vocabulary",
]
