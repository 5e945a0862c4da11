"""The trainer."""

from distil_nlp.training.trainer import DistillationTrainer

__all__ = ["DistillationTrainer"]
