"""Feature-based distillation without a projection: Gram matrices of tokens."""

from __future__ import annotations

from torch import Tensor

from distil_nlp.functional.token_relations import gram_difference
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_token_relations import TokenRelationObjective
from distil_nlp.signals import Batch, valid_examples


@OBJECTIVES.register("gram")
class Gram(TokenRelationObjective):
    r"""Mean squared difference between the Gram matrices of token directions, in mapped layers.

    .. math:: \frac{1}{B |P|} \sum_{(l,m) \in P} \sum_b \frac{1}{n_b^2} \sum_{i,j=1}^{n_b}
              (\cos(h^s_{l,i}, h^s_{l,j}) - \cos(h^t_{m,i}, h^t_{m,j}))^2

    over all pairs of the :math:`n_b` tokens of example b that are not padding.

    Use it for students of another width: the matrices are ``[tokens, tokens]``, so no projection is needed. It fixes
    the angles between tokens, where ``cka`` fixes them up to scale and mean. Values are small (a few hundredths), so
    weights above 1 are usual.

    Args:
        mapping: Which student block follows which teacher block.
        weight: Factor on the term in the total.

    References:
        Liu et al. (2019), arXiv:1903.04197, "pair-wise distillation", with tokens for pixels, and a mean over layers.
        Bhattarai et al. (2025), arXiv:2509.25253, propose Gram matrices as a target for language models. The Gram
        matrices of Yim et al. (2017, "A gift from knowledge distillation") are ``[width, width]`` and bound to widths.
    """

    name = "gram"

    def count(self, batch: Batch) -> Tensor:
        return valid_examples(batch).sum()

    def compare(self, student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
        return gram_difference(student, teacher, valid)
