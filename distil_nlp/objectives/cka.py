"""Feature-based distillation without a projection: centred kernel alignment."""

from __future__ import annotations

import torch
from torch import Tensor

from distil_nlp.functional.token_relations import token_cka
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_token_relations import TokenRelationObjective
from distil_nlp.signals import Batch, valid_examples, valid_tokens


@OBJECTIVES.register("cka")
class CKA(TokenRelationObjective):
    r"""One minus the linear CKA of the hidden states of mapped layers, over the tokens of each example.

    .. math:: \frac{1}{B |P|} \sum_{(l,m) \in P} \sum_b
              \left( 1 - \frac{\| Y_{mb}^\top X_{lb} \|_F^2}{\| X_{lb}^\top X_{lb} \|_F \| Y_{mb}^\top Y_{mb} \|_F}
              \right)

    A row of X (Y) is the student's (teacher's) hidden state of a token that is not padding, less the example's mean.
    Items are the examples with two tokens or more. One whose tokens are all alike on either side has the value 1 and
    no gradient.

    Use it for students of another width, in the place of ``hidden_states``: no projection is trained and then thrown
    away. It compares how tokens lie to each other and leaves rotation, scale and mean free, so it is a weaker teacher
    than ``hidden_states`` where the student starts from the teacher's layers.

    Args:
        mapping: Which student block follows which teacher block.
        weight: Factor on the term in the total.

    References:
        Kornblith et al. (2019), arXiv:1905.00414, section 3 (linear CKA). Over the tokens of one example as in the
        intra-feature loss of Jung et al. (2022), arXiv:2204.08922, so that micro-batches add up to the batch; there
        the loss is minus the logarithm of the batch's mean, here 1 minus it, and padding counts in their code.
    """

    name = "cka"

    def count(self, batch: Batch) -> Tensor:
        return (valid_examples(batch) & (valid_tokens(batch).sum(-1) > 1)).sum()

    def compare(self, student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
        return torch.where(valid.sum(-1) > 1, 1 - token_cka(student, teacher, valid), 0.0)
