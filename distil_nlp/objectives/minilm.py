"""MiniLM: the last layer's attention maps and relations between its values."""

from __future__ import annotations

from torch import Tensor

from distil_nlp.errors import ModelError
from distil_nlp.functional.attention_losses import attention_kl
from distil_nlp.functional.token_relations import self_attention_relation
from distil_nlp.mapping import MappingSpec
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_attention import AttentionObjective
from distil_nlp.objectives.on_examples import LAST
from distil_nlp.signals import SelfAttention, Shape


@OBJECTIVES.register("minilm")
class MiniLM(AttentionObjective):
    r"""KL divergence of the last layer's attention maps, and of its value relations.

    .. math:: \frac{1}{B} \sum_b \frac{1}{H n_b} \sum_{h,i}
              \left[ KL(A^t_{bhi} \| A^s_{bhi}) + KL(R^t_{bhi} \| R^s_{bhi}) \right], \quad
              A = softmax(q k^\top \cdot scaling), \; R = softmax(v v^\top / \sqrt{d})

    over the :math:`n_b` tokens of example b that are not padding, as queries and as keys; d is the width of a head.

    Use it to give a student of any width and depth, with the teacher's number of heads, the teacher's behaviour before
    it is fine-tuned, on much unlabelled text. For another number of heads use ``minilm_v2``, its successor.

    Args:
        mapping: Which student block follows which teacher block; the last follows the last.
        weight: Factor on the term in the total.

    References:
        Wang et al. (2020), arXiv:2002.10957, eq. 6 to 10. Value relations of a causal model are masked as its
        attention is: a token is related to itself and to earlier ones. Under grouped-query attention a value counts
        once for each query head that reads it.
    """

    name = "minilm"

    def __init__(self, *, mapping: MappingSpec = LAST, weight: float = 1.0) -> None:
        super().__init__(mapping=mapping, weight=weight)

    def bind(self, student: Shape, teacher: Shape | None) -> None:
        super().bind(student, teacher)
        if teacher is not None and student.num_heads != teacher.num_heads:
            raise ModelError(
                "minilm compares attention head by head.",
                f"The student has {student.num_heads} heads, the teacher {teacher.num_heads}.",
                "Use minilm_v2, which does not ask for equal numbers, or a student with the teacher's.",
            )

    def compare(self, student: SelfAttention, teacher: SelfAttention, valid: Tensor) -> Tensor:
        ours, theirs = (
            self_attention_relation(attention, "value", heads=attention.query.shape[1])  # type: ignore[union-attr]
            for attention in (student, teacher)
        )
        return attention_kl(student, teacher, valid) + attention_kl(ours, theirs, valid)
