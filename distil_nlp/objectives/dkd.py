"""Soft targets in two parts: how sure the teacher is, and what else it considers."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from distil_nlp.errors import ModelError, RecipeError
from distil_nlp.functional.decoupled import decoupled_kl
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_logits import CLASSES, LogitsObjective
from distil_nlp.signals import Shape


@OBJECTIVES.register("dkd")
class DKD(LogitsObjective):
    r"""Decoupled knowledge distillation: the target class and the other classes with weights of their own.

    .. math:: \frac{T^2}{n} \sum_i [\alpha \, KL(b_t \| b_s) + \beta \, KL(\hat p_t \| \hat p_s)]

    with :math:`b = (p_y, 1 - p_y)` for the target y, :math:`\hat p = p / (1 - p_y)` over the other classes, and
    :math:`p = softmax(z / T)`. In ``logits_kl`` the second part has the weight :math:`1 - p_{t,y}`, so that a sure
    teacher says little about the other classes.

    For three classes or more; it helps where teachers are sure and labels right. With many classes that never matter,
    as in a vocabulary, lower :math:`\beta`. The target is the item's label; where there is none, the teacher's
    likeliest class.

    Args:
        alpha: Weight of the target against the rest (TCKD), at least 0.
        beta: Weight of the other classes among themselves (NCKD), at least 0.
        temperature: T, above 0.
        standardize: Whether logits are standardised first (:class:`LogitsObjective`).
        confidence: Whether an item counts by how sure the teacher is of it: ``max_prob``, ``entropy`` or None.
        weight: Factor on the term in the total.

    References:
        Zhao et al. (2022), arXiv:2203.08679, section 3; the defaults are those of the authors' code for CIFAR-100, T²
        is in their code too. Their weight rises over the first 20 epochs, ours is constant.
        Targets for items without labels, and spans as classes, are ours.
    """

    name = "dkd"
    kinds: ClassVar[frozenset[str]] = CLASSES
    instead: ClassVar[str] = "logits_kl"  # with one other class there is nothing among the others

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        standardize: bool = False,
        confidence: str | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(temperature=temperature, standardize=standardize, confidence=confidence, weight=weight)
        if alpha < 0 or beta < 0:
            raise RecipeError(
                f"dkd.alpha is {alpha}, dkd.beta is {beta}.",
                "A weight is not negative.",
                "The authors use alpha 1 and beta from 0.5 to 8.",
            )
        self.alpha, self.beta = alpha, beta

    def bind(self, student: Shape, teacher: Shape | None) -> None:
        super().bind(student, teacher)
        if student.item != "span" and student.num_outputs < 3:
            raise ModelError(
                "dkd weighs the classes other than the target against each other.",
                f"With {student.num_outputs} classes there is only one of them.",
                "Use logits_kl instead, which is all that would be left of it.",
            )

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None) -> Tensor:
        likeliest = teacher_logits.argmax(-1)
        if target is None:
            target = likeliest
        labelled = (target >= 0) & (target < teacher_logits.shape[-1])
        return decoupled_kl(
            student_logits,
            teacher_logits,
            torch.where(labelled, target, likeliest),
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, alpha={self.alpha}, beta={self.beta}"
