"""Feature-based distillation: the embedding output."""

from __future__ import annotations

from torch import Tensor

from distil_nlp.functional.similarity import mean_squared_error
from distil_nlp.mapping import LayerMapping, LayerPairs
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_features import TokenObjective
from distil_nlp.projection import ProjectionSpec


class _EmbeddingOutput(LayerMapping):
    """Hidden state 0 follows hidden state 0, whatever the depths."""

    def resolve(self, *_: object) -> LayerPairs:
        return [(0, 0)]


@OBJECTIVES.register("embeddings")
class Embeddings(TokenObjective):
    r"""Mean squared error between the embedding outputs.

    .. math:: \frac{1}{n} \sum_i \frac{1}{d} \| W e^s_i - e^t_i \|^2

    over the n tokens that are not padding; e is what the first block reads (word, position and type embeddings,
    normalised where the model does so), d the width of the vectors.

    Use it with ``hidden_states`` for students whose embeddings are not the teacher's (another width, random weights).
    A student that keeps the teacher's embeddings starts at 0 and needs it little.

    Args:
        projection: ``"auto"``, ``"linear"``, ``"mlp"``, ``"orthogonal"`` or ``"none"``, or a mapping with ``kind``,
            ``shared`` and ``side`` (:class:`~distil_nlp.projection.ProjectionSettings`).
        weight: Factor on the term in the total.

    References:
        Jiao et al. (2020), arXiv:1909.10351, eq. 9 (``L_embd``).
    """

    name = "embeddings"

    def __init__(self, *, projection: ProjectionSpec = "auto", weight: float = 1.0) -> None:
        super().__init__(projection=projection, weight=weight)
        self.mapping = _EmbeddingOutput()

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return mean_squared_error(student, teacher)

    def extra_repr(self) -> str:
        return f"weight={self.weight}"
