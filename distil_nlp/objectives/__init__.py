"""Objectives: one file each, named as in recipes."""

from distil_nlp.objectives.attentions import Attentions
from distil_nlp.objectives.base import OBJECTIVES, LayerObjective, Objective
from distil_nlp.objectives.hidden_states import HiddenStates
from distil_nlp.objectives.logits_kl import LogitsKL
from distil_nlp.objectives.task_loss import TaskLoss

__all__ = ["OBJECTIVES", "Attentions", "HiddenStates", "LayerObjective", "LogitsKL", "Objective", "TaskLoss"]
