"""Patient distillation: the state of the first token, layer by layer."""

from __future__ import annotations

from torch import Tensor

from distil_nlp.functional.pooling import pool
from distil_nlp.functional.similarity import normalized_squared_error
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_features import FeatureObjective
from distil_nlp.signals import Batch, valid_examples


@OBJECTIVES.register("cls_states")
class ClsStates(FeatureObjective):
    r"""Squared distance between the normalised first-token states of mapped layers (patient distillation, PKD).

    .. math:: \frac{1}{B |P|} \sum_{(l,m) \in P} \sum_b
              \left\| \frac{W_l h^s_{l,b}}{\|W_l h^s_{l,b}\|} - \frac{h^t_{m,b}}{\|h^t_{m,b}\|} \right\|^2

    where h is the hidden state of an example's first token that is not padding, ``[CLS]`` in BERT's family.

    Use it for classifiers that read that token: it asks less of a small student than ``hidden_states`` does. In a
    causal model the first token sees only itself, so it says nothing there: use ``hidden_states``.

    Args:
        mapping: Which student block follows which teacher block; ``uniform`` is PKD-Skip, ``last`` PKD-Last.
        projection: ``"auto"``, ``"linear"``, ``"mlp"``, ``"orthogonal"`` or ``"none"``, or a mapping with ``kind``,
            ``shared`` and ``side`` (:class:`~distil_nlp.projection.ProjectionSettings`).
        weight: Factor on the term in the total.

    References:
        Sun et al. (2019), arXiv:1908.09355, section 3.2. There the sum over layers and examples, and student and
        teacher are equally wide; here the mean over both, and a projection where they are not. Their code takes the
        mean over the width, too: for vectors d wide, a weight there is d times what it is here. Their mappings leave
        the last layer out, which the loss on predictions reaches; here it takes part unless ``mapping`` leaves it out.
    """

    name = "cls_states"

    def count(self, batch: Batch) -> Tensor:
        return valid_examples(batch).sum()

    def pick(self, hidden_states: Tensor, valid: Tensor) -> Tensor:
        present = valid.any(-1)
        first = pool(hidden_states, valid, "cls")  # [batch, width]
        return first if present.all() else first[present]

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return normalized_squared_error(student, teacher)
