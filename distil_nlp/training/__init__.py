"""The trainer, and what changes while it trains."""

from distil_nlp.training.callbacks import ScheduleCallback
from distil_nlp.training.layer_choice import choose_layers
from distil_nlp.training.schedules import SCHEDULES, Constant, Cosine, Linear, Schedule, Switch, Warmup
from distil_nlp.training.trainer import DistillationTrainer
from distil_nlp.training.weighting import WEIGHTINGS, GradNorm, Uncertainty, Weighting

__all__ = [
    "SCHEDULES",
    "WEIGHTINGS",
    "Constant",
    "Cosine",
    "DistillationTrainer",
    "GradNorm",
    "Linear",
    "Schedule",
    "ScheduleCallback",
    "Switch",
    "Uncertainty",
    "Warmup",
    "Weighting",
    "choose_layers",
]
