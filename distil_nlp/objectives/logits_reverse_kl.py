"""Soft targets, the mode-seeking way round."""

from __future__ import annotations

from torch import Tensor

from distil_nlp.functional.divergence import reverse_kl_divergence
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_logits import LogitsObjective


@OBJECTIVES.register("logits_reverse_kl")
class LogitsReverseKL(LogitsObjective):
    r"""Reverse KL divergence between the softened predictions of student and teacher.

    .. math:: \frac{T^2}{n} \sum_i \sum_v p_s(v|x_i) \log \frac{p_s(v|x_i)}{p_t(v|x_i)}, \quad p = softmax(z / T)

    For a student that cannot have all of its teacher's predictions, as in language modelling: it drops the unlikely
    ones rather than spread over them. For classification ``logits_kl`` keeps more of what the teacher knows.

    Args:
        temperature: T, above 0.
        standardize: Whether logits are standardised first (:class:`LogitsObjective`).
        confidence: Whether an item counts by how sure the teacher is of it: ``max_prob``, ``entropy`` or None.
        weight: Factor on the term in the total.

    References:
        Gu et al. (2024), arXiv:2306.08543. There it is the divergence of whole sequences, which the student generates;
        here that of each prediction on the data, without sampling. The factor T² is ours.
    """

    name = "logits_reverse_kl"

    def compare(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None) -> Tensor:
        return reverse_kl_divergence(student_logits, teacher_logits, temperature=self.temperature)
