"""Soft targets that are exact at the teacher's likeliest classes."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from distil_nlp.errors import RecipeError
from distil_nlp.functional.divergence import topk_kl_divergence
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_logits import CLASSES, LogitsObjective


@OBJECTIVES.register("logits_topk_kl")
class LogitsTopKKL(LogitsObjective):
    r"""Forward KL divergence over the teacher's k likeliest classes and one class that stands for all others.

    .. math:: \frac{T^2}{n} \sum_i \Big[ \sum_{v \in K_i} p_t(v|x_i) \log \frac{p_t(v|x_i)}{p_s(v|x_i)} +
        r_t(x_i) \log \frac{r_t(x_i)}{r_s(x_i)} \Big], \quad r(x_i) = 1 - \sum_{v \in K_i} p(v|x_i)

    with :math:`p = softmax(z / T)`. For large vocabularies, whose tail is mostly noise: how likely the tail is as a
    whole is learned, how it is made up is left to the student. It is never above ``logits_kl``, and equal to it if k
    is all classes; for a handful of classes use that.

    Args:
        k: Number of classes that are kept, at least 1.
        temperature: T, above 0.
        standardize: Whether logits are standardised first (:class:`LogitsObjective`), over all classes.
        confidence: Whether an item counts by how sure the teacher is of it: ``max_prob``, ``entropy`` or None.
        weight: Factor on the term in the total.

    References:
        The loss is that of Hinton, Vinyals, Dean (2015), arXiv:1503.02531, section 2, after merging classes. Unlike
        truncated targets, which are scaled up to sum to 1, the merged ones keep the probabilities of the k classes.
    """

    name = "logits_topk_kl"
    kinds: ClassVar[frozenset[str]] = CLASSES
    instead: ClassVar[str] = "logits_kl"  # there are only yes and no

    def __init__(
        self,
        *,
        k: int = 64,
        temperature: float = 2.0,
        standardize: bool = False,
        confidence: str | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(temperature=temperature, standardize=standardize, confidence=confidence, weight=weight)
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise RecipeError(f"logits_topk_kl.k is {k}.", "It is a number of classes, at least 1.", "64 is usual.")
        self.k = k

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None) -> Tensor:
        return topk_kl_divergence(student_logits, teacher_logits, k=self.k, temperature=self.temperature)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, k={self.k}"
