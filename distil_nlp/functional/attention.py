"""One example's self-attention, rebuilt from what was captured of a block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distil_nlp.functional.precision import precise
from distil_nlp.signals import SelfAttention

NEVER = -1e30  # a score that no softmax sees, and that is still finite
MASKED = -1e4  # additive masks hold this or less where a token may not attend
SMALLEST = 1e-30  # a finished map's entry below this was masked or dropped


def attention_probabilities(attention: SelfAttention, example: int, tokens: Any) -> Tensor:
    """One example's attention maps over its valid tokens, before dropout.

    ``softmax(q k^T * scaling + mask)``, restricted to the rows and columns in ``tokens``.

    Args:
        attention: What was captured of one block.
        example: Index within the batch.
        tokens: Slice or ``[valid]`` indices of the tokens that are not padding.

    Returns:
        ``[heads, valid, valid]``, float32 (float64 for float64 input).
    """
    return Scores(attention, example, tokens).probabilities(slice(None))


class Scores:
    """One example's scores, made for some of its queries at a time.

    Attributes:
        hidden: ``[heads or 1, valid, valid]``, true where a token may not attend; None where all may.
    """

    def __init__(self, attention: SelfAttention, example: int, tokens: Any) -> None:
        self.scaling = attention.scaling
        self.bias: Tensor | None = None
        self.maps: Tensor | None = None
        if attention.probabilities is not None:
            self.maps = precise(attention.probabilities[example][:, tokens][:, :, tokens])
            self.heads, self.tokens = self.maps.shape[:2]
            self.hidden = _unless_empty(self.maps < SMALLEST)
            return
        self.query, self.key = query_and_key(attention, example, tokens)
        self.heads, self.tokens = self.query.shape[:2]
        self.hidden, mask = None, attention.mask
        if mask is not None:
            mask = mask[example if len(mask) > 1 else 0].expand(-1, mask.shape[-1], -1)
            mask = mask[:, tokens][:, :, tokens]
            self.hidden = _unless_empty(masked(mask))
            self.bias = mask.to(self.query.dtype) if mask.dtype != torch.bool and mask.any() else None
        elif attention.causal:
            self.hidden = torch.ones(1, self.tokens, self.tokens, dtype=torch.bool, device=self.query.device).triu(1)

    def rows(self, part: slice) -> Tensor:
        """``[heads, rows, valid]``; of a finished map its logarithm."""
        if self.maps is not None:
            return self.maps[:, part].clamp(min=SMALLEST).log_()
        keys = self.key.transpose(-1, -2)
        scores = torch.baddbmm(keys.new_empty(1), self.query[:, part], keys, beta=0, alpha=self.scaling)
        return scores if self.bias is None else scores.add_(self.bias[:, part])

    def probabilities(self, part: slice) -> Tensor:
        """``[heads, rows, valid]``; a finished map as it is."""
        if self.maps is not None:
            return self.maps[:, part]
        scores = self.rows(part)
        return torch.softmax(
            scores if self.hidden is None else scores.masked_fill_(self.hidden[:, part], NEVER), dim=-1
        )


def valid_indices(valid: Tensor) -> list[Any]:
    """The valid tokens of each example: a slice where they are contiguous, which costs no copy."""
    found: list[Any] = []
    for row in valid.cpu():
        indices = row.nonzero().squeeze(1)
        first, count = int(indices[0]) if len(indices) else 0, len(indices)
        contiguous = not count or int(indices[-1]) - first + 1 == count
        found.append(slice(first, first + count) if contiguous else indices.to(valid.device))
    return found


def query_and_key(attention: SelfAttention, example: int, tokens: Any) -> tuple[Tensor, Tensor]:
    """Queries and keys of one example, each ``[heads, valid, head_width]``."""
    query, key = attention.query[example][:, tokens], attention.key[example][:, tokens]  # type: ignore[index]
    if key.shape[0] != query.shape[0]:
        key = key.repeat_interleave(query.shape[0] // key.shape[0], dim=0)
    return precise(query), precise(key)


def masked(mask: Tensor) -> Tensor:
    """True where a mask, boolean or additive, lets no token attend."""
    return ~mask if mask.dtype == torch.bool else mask <= MASKED


def _unless_empty(mask: Tensor) -> Tensor | None:
    return mask if mask.any() else None
