"""Feature-based distillation: hidden states."""

from __future__ import annotations

from torch import Tensor

from distil_nlp.errors import RecipeError, near_match
from distil_nlp.functional.similarity import cosine_distance, mean_squared_error, normalized_squared_error
from distil_nlp.mapping import MappingSpec
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_features import TokenObjective
from distil_nlp.projection import ProjectionSpec

LOSSES = {"mse": mean_squared_error, "cosine": cosine_distance, "normalized": normalized_squared_error}


@OBJECTIVES.register("hidden_states")
class HiddenStates(TokenObjective):
    r"""Distance between the hidden states of mapped layers, token by token.

    .. math:: \frac{1}{n |P|} \sum_{(l,m) \in P} \sum_i \ell(W_l h^s_{l,i}, h^t_{m,i})

    over the n tokens that are not padding and the pairs P of the layer mapping. With d the width of the vectors,
    :math:`\ell(u, v)` is

    - ``mse``: :math:`\frac{1}{d} \| u - v \|^2`
    - ``cosine``: :math:`1 - \cos(u, v)`
    - ``normalized``: :math:`\| u / \|u\| - v / \|v\| \|^2 = 2 - 2 \cos(u, v)`

    Use it when student and teacher have one tokenizer; it helps most with little data and students that start from
    the teacher's layers. ``cosine`` and ``normalized`` leave the vectors' lengths free, which suits models with a few
    very large activations; ``mse`` fixes them, too.

    Args:
        mapping: Which student block follows which teacher block.
        projection: ``"auto"``, ``"linear"``, ``"mlp"``, ``"orthogonal"`` or ``"none"``, or a mapping with ``kind``,
            ``shared`` and ``side`` (:class:`~distil_nlp.projection.ProjectionSettings`).
        loss: ``"mse"``, ``"cosine"`` or ``"normalized"``.
        weight: Factor on the term in the total.

    References:
        Romero et al. (2015), arXiv:1412.6550, eq. 3 (half a sum over the width); Jiao et al. (2020),
        arXiv:1909.10351, eq. 8; ``cosine``: Sanh et al. (2019), arXiv:1910.01108, section 2, of the last layer;
        ``normalized``: Sun et al. (2019), arXiv:1908.09355, section 3.2, of all tokens instead of the first. Where
        they sum over layers, here it is the mean, so that a weight means the same for any depth.
    """

    name = "hidden_states"

    def __init__(
        self,
        *,
        mapping: MappingSpec = "uniform",
        projection: ProjectionSpec = "auto",
        loss: str = "mse",
        weight: float = 1.0,
    ) -> None:
        super().__init__(mapping=mapping, projection=projection, weight=weight)
        if loss not in LOSSES:
            raise RecipeError(f"hidden_states.loss is '{loss}'.", near_match(f"{loss}", LOSSES))
        self.loss = loss

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return LOSSES[self.loss](student, teacher)
