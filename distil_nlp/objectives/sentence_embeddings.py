"""Feature-based distillation: one embedding for a whole text."""

from __future__ import annotations

from torch import Tensor

from distil_nlp.errors import RecipeError, near_match
from distil_nlp.functional.pooling import POOLINGS, pool
from distil_nlp.functional.similarity import cosine_distance, mean_squared_error, unit
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_examples import LAST
from distil_nlp.objectives.on_features import FeatureObjective
from distil_nlp.projection import ProjectionSpec
from distil_nlp.signals import Batch, valid_examples

LOSSES = {"mse": mean_squared_error, "cosine": cosine_distance}


@OBJECTIVES.register("sentence_embeddings")
class SentenceEmbeddings(FeatureObjective):
    r"""Distance between the student's and the teacher's embedding of an example.

    .. math:: \frac{1}{B} \sum_b \ell(W s_b, t_b)

    where s and t are the pooled last hidden states, scaled to length 1 after the projection if ``normalize`` is set.
    With d the width of the teacher's, :math:`\ell(u, v)` is

    - ``mse``: :math:`\frac{1}{d} \| u - v \|^2`, which is :math:`\frac{2}{d} (1 - \cos(u, v))` for vectors of length 1
    - ``cosine``: :math:`1 - \cos(u, v)`

    Use it for students that give sentence embeddings, on any text: it needs no labels. ``mse`` fixes the length of
    embeddings that are not normalised, too; ``cosine`` leaves it free. Normalised, both have the same optimum, and
    ``cosine`` is of a size that goes with other terms. A projection, which a narrower student needs, is no part of
    the saved student, whose embeddings are then not comparable to the teacher's one by one.

    Args:
        pooling: ``mean`` of the tokens that are not padding, ``cls``: the first of them, or ``last``; in a recipe, the
            task's if it has one.
        normalize: Whether embeddings have length 1; in a recipe, the task's if it has one.
        loss: ``"mse"`` or ``"cosine"``.
        projection: ``"auto"``, ``"linear"``, ``"mlp"``, ``"orthogonal"`` or ``"none"``, or a mapping with ``kind``,
            ``shared`` and ``side`` (:class:`~distil_nlp.projection.ProjectionSettings`).
        weight: Factor on the term in the total.

    References:
        Reimers & Gurevych (2020), arXiv:2004.09813: the mean squared error between embeddings (there the student's
        of a sentence and of its translation, both against the teacher's of the sentence).
    """

    name = "sentence_embeddings"

    def __init__(
        self,
        *,
        pooling: str = "mean",
        normalize: bool = False,
        loss: str = "mse",
        projection: ProjectionSpec = "auto",
        weight: float = 1.0,
    ) -> None:
        super().__init__(mapping=LAST, projection=projection, weight=weight)
        for key, value, known in (("pooling", pooling, POOLINGS), ("loss", loss, LOSSES)):
            if value not in known:
                raise RecipeError(f"sentence_embeddings.{key} is '{value}'.", near_match(f"{value}", known))
        self.pooling, self.normalize, self.loss = pooling, normalize, loss

    def count(self, batch: Batch) -> Tensor:
        return valid_examples(batch).sum()

    def pick(self, hidden_states: Tensor, valid: Tensor) -> Tensor:
        present = valid.any(-1)
        pooled = pool(hidden_states, valid, self.pooling)  # [batch, width]
        return pooled if present.all() else pooled[present]

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.normalize:
            student, teacher = unit(student), unit(teacher)
        return LOSSES[self.loss](student, teacher)

    def extra_repr(self) -> str:
        return f"weight={self.weight}, pooling={self.pooling}, normalize={self.normalize}, loss={self.loss}"
