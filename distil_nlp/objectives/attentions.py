"""Feature-based distillation: attention maps."""

from __future__ import annotations

from torch import Tensor

from distil_nlp.errors import RecipeError, near_match
from distil_nlp.functional.attention_losses import attention_kl, attention_mse, attention_score_mse
from distil_nlp.mapping import MappingSpec
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_attention import AttentionObjective
from distil_nlp.signals import SelfAttention

LOSSES = {
    ("mse", "probabilities"): attention_mse,
    ("kl", "probabilities"): attention_kl,
    ("mse", "scores"): attention_score_mse,
}


@OBJECTIVES.register("attentions")
class Attentions(AttentionObjective):
    r"""Distance between the self-attention maps of mapped layers.

    .. math:: \frac{1}{B |P|} \sum_{(l,m) \in P} \sum_b \ell(A^s_{lb}, A^t_{mb})

    With :math:`n_b` the tokens of example b that are not padding and H the number of heads, :math:`\ell` is

    - ``mse`` on probabilities: :math:`\frac{1}{H n_b^2} \sum_{h,i,j} (A^s_{hij} - A^t_{hij})^2`
    - ``kl`` on probabilities: :math:`\frac{1}{H n_b} \sum_{h,i} \sum_j A^t_{hij} \log (A^t_{hij} / A^s_{hij})`
    - ``mse`` on scores: the mean squared difference of :math:`q k^\top \cdot scaling`, before the softmax, over the
      entries that neither model masks

    Maps are probabilities before dropout. Where the numbers of heads differ, both sides are averaged over heads first.

    Both models keep their fast attention; maps are rebuilt from queries and keys of the mapped layers only. Values of
    ``mse`` on probabilities are small (a map's row sums to 1), so weights well above 1 are usual; ``kl`` and scores
    are of the size of other terms. Scores fix what the softmax leaves free, so they suit students that start from the
    teacher's layers. Of a model that gives finished maps only (DeBERTa-v2) they cannot be seen, and in training such
    a student's maps are taken after dropout: ``kl`` leaves the dropped entries out.

    Args:
        mapping: Which student block follows which teacher block.
        loss: ``"mse"`` or ``"kl"`` (teacher to student).
        on: ``"probabilities"`` or ``"scores"``; ``kl`` is of probabilities only.
        weight: Factor on the term in the total.

    References:
        Jiao et al. (2020), arXiv:1909.10351, eq. 7, for scores (their code counts padding, as 0), which they found a
        better target than probabilities; ``kl`` as in Aguilar et al. (2020), arXiv:1910.03723, layer by layer, and in
        Wang et al. (2020), arXiv:2002.10957, eq. 6, of the last layer. Mean over layers instead of their sum.
    """

    name = "attentions"

    def __init__(
        self, *, mapping: MappingSpec = "uniform", loss: str = "mse", on: str = "probabilities", weight: float = 1.0
    ) -> None:
        super().__init__(mapping=mapping, weight=weight)
        for name, value, known in (("loss", loss, ("mse", "kl")), ("on", on, ("probabilities", "scores"))):
            if value not in known:
                raise RecipeError(f"attentions.{name} is '{value}'.", near_match(f"{value}", known))
        if (loss, on) not in LOSSES:
            raise RecipeError(
                f"attentions was asked for 'loss: {loss}' with 'on: {on}'.",
                "A divergence is between probabilities; scores are none.",
                "Use 'loss: mse' with 'on: scores', or 'loss: kl' with 'on: probabilities'.",
            )
        self.loss, self.on = loss, on

    @property
    def needs_inputs(self) -> bool:
        return self.on == "scores"

    def compare(self, student: SelfAttention, teacher: SelfAttention, valid: Tensor) -> Tensor:
        return LOSSES[self.loss, self.on](student, teacher, valid)
