"""MiniLMv2: relations between queries, between keys and between values."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from distil_nlp.errors import ModelError, RecipeError, near_match
from distil_nlp.functional.attention_losses import attention_kl
from distil_nlp.functional.token_relations import self_attention_relation
from distil_nlp.mapping import MappingSpec
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_attention import AttentionObjective
from distil_nlp.objectives.on_examples import LAST
from distil_nlp.signals import SelfAttention, Shape

RELATIONS = {"query": 1.0, "key": 1.0, "value": 1.0}


@OBJECTIVES.register("minilm_v2")
class MiniLMv2(AttentionObjective):
    r"""KL divergence of multi-head self-attention relations.

    .. math:: \frac{1}{B} \sum_b \sum_{A \in \{Q, K, V\}} \frac{\alpha_A}{H_r n_b} \sum_{a=1}^{H_r} \sum_i
              KL(R^t_{Abai} \| R^s_{Abai}), \quad R_{Aba} = softmax(A_{ba} A_{ba}^\top / \sqrt{d_r})

    over the :math:`n_b` tokens of example b that are not padding, as rows and as columns. The queries (keys, values) of
    all heads are laid side by side and cut into :math:`H_r` relation heads, each :math:`d_r` wide, so numbers of heads
    and widths may differ between student and teacher.

    Use it to give a student of any shape the teacher's behaviour before it is fine-tuned, on much unlabelled text. It
    touches one layer only and needs no projection. For a large teacher a layer below the last is often the better one
    to follow: ``mapping: {-1: 21}`` for 24 blocks.

    Args:
        mapping: Which student block follows which teacher block; the last follows the last.
        relation_heads: Number of relation heads; must divide the width of all heads of either model. The teacher's
            number of attention heads if None. More of them carry finer knowledge.
        relations: Weight of each relation, ``{query: 1, key: 1, value: 1}``; one that is not named is left out.
        weight: Factor on the term in the total.

    References:
        Wang et al. (2021), arXiv:2012.15828, with 48 relation heads for teachers of base size and 64 for large ones.
        Relations of a causal model leave out later tokens, as its attention does; rotary embeddings are part of its
        queries and keys. Under grouped-query attention keys and values are repeated, once for each query head that
        reads them, before they are cut into relation heads.
    """

    name = "minilm_v2"

    def __init__(
        self,
        *,
        mapping: MappingSpec = LAST,
        relation_heads: int | None = None,
        relations: Mapping[str, float] | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(mapping=mapping, weight=weight)
        if relation_heads is not None and (not isinstance(relation_heads, int) or relation_heads < 1):
            raise RecipeError(
                f"minilm_v2.relation_heads is {relation_heads!r}.",
                "It is a whole number above 0.",
                "Leave it out for the teacher's number of heads.",
            )
        self.relation_heads = relation_heads
        self.relations = _checked(RELATIONS if relations is None else relations)

    def bind(self, student: Shape, teacher: Shape | None) -> None:
        super().bind(student, teacher)
        if teacher is None:
            return
        heads = self.relation_heads or teacher.num_heads
        self._check_width(heads, student, teacher)
        self.relation_heads = heads

    def compare(self, student: SelfAttention, teacher: SelfAttention, valid: Tensor) -> Tensor:
        heads = self.relation_heads or 1
        parts = []
        for name, factor in self.relations.items():
            ours, theirs = (self_attention_relation(side, name, heads=heads) for side in (student, teacher))
            parts.append(factor * attention_kl(ours, theirs, valid))
        return torch.stack(parts).sum(0)

    def _check_width(self, heads: int, student: Shape, teacher: Shape) -> None:
        widths = {
            role: shape.attention_width
            for role, shape in (("student", student), ("teacher", teacher))
            if shape.attention_width is not None
        }
        found = [
            f"All heads of the {role} together are {width} wide, which {heads} does not divide."
            for role, width in widths.items()
            if width % heads
        ]
        if not found:
            return
        common = math.gcd(*widths.values())
        fitting = ", ".join(str(number) for number in range(1, common + 1) if common % number == 0)
        asked = "" if self.relation_heads else ", the teacher's number of heads, since relation_heads is left out"
        raise ModelError(
            f"minilm_v2 cuts the heads of either model into {heads} relation heads{asked}.",
            " ".join(found),
            f"Set relation_heads to one of {fitting}.",
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, relation_heads={self.relation_heads}, relations={self.relations}"


def _checked(relations: Mapping[str, float]) -> dict[str, float]:
    """The relations that count."""
    if not isinstance(relations, Mapping):
        raise RecipeError(
            f"minilm_v2.relations is {relations!r}.", "It gives each relation a weight.", f"Write {RELATIONS}."
        )
    for name, factor in relations.items():
        if name not in RELATIONS:
            raise RecipeError(f"Unknown relation '{name}' in minilm_v2.relations.", near_match(f"{name}", RELATIONS))
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or factor < 0:
            raise RecipeError(f"minilm_v2.relations.{name} is {factor!r}.", "A weight is a number, and not negative.")
    kept = {name: float(factor) for name, factor in relations.items() if factor > 0}
    if not kept:
        raise RecipeError(
            f"minilm_v2.relations is {dict(relations)}.", "No relation counts.", "Give one of them a weight above 0."
        )
    return kept
