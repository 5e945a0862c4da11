"""How far two blocks' self-attention is apart: probabilities, scores before the softmax, or a divergence."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distil_nlp.functional.attention import NEVER, SMALLEST, masked
from distil_nlp.functional.attention_blocks import (
    Compare,
    ScoreLoss,
    compare_divergence,
    compare_maps,
    compare_scores,
    hidden_from_either,
)
from distil_nlp.functional.precision import precise
from distil_nlp.signals import SelfAttention


def attention_mse(student: SelfAttention, teacher: SelfAttention, valid: Tensor) -> Tensor:
    r"""Mean squared difference of attention maps, per example.

    .. math:: \frac{1}{H n^2} \sum_{h=1}^{H} \sum_{i,j=1}^{n} (A^s_{hij} - A^t_{hij})^2

    over the n tokens that are not padding; where the numbers of heads differ, both maps are averaged over their
    heads first (H = 1). For examples without padding this is ``F.mse_loss`` of the two stacks of maps.

    On a CPU maps are never held for a whole batch: a block of rows lives in cache while its value, and with it the
    gradient of the student's scores, is computed. Elsewhere the batch is one piece: there launches are dear.

    Args:
        student: What was captured of a student block.
        teacher: What was captured of the teacher block that it is to follow; no gradient flows into it.
        valid: ``[batch, tokens]`` boolean, true where a token is not padding.

    Returns:
        ``[batch]``, float32 (float64 for float64 input).

    References:
        Jiao et al. (2020), arXiv:1909.10351, eq. 7; on probabilities instead of unnormalised scores, which they found
        the better target, and without padding.
    """
    if valid.device.type != "cpu" or student.query is None:
        return _batched_mse(student, teacher, valid)
    return _blockwise(student, teacher, valid, compare_maps)


def attention_kl(student: SelfAttention, teacher: SelfAttention, valid: Tensor) -> Tensor:
    r"""Forward KL divergence between attention maps, row by row, per example.

    .. math:: \frac{1}{H n} \sum_{h=1}^{H} \sum_{i=1}^{n} \sum_j A^t_{hij} \log \frac{A^t_{hij}}{A^s_{hij}}

    over the n tokens that are not padding, as queries and as keys. Where the numbers of heads differ, both maps are
    averaged over their heads first (H = 1). A row's distribution is over the tokens that both models may attend to
    (earlier ones in a causal model), renormalised where their masks differ, so that the divergence is finite.

    On a CPU maps are never held for a whole batch: a block of rows lives in cache while its value, and with it the
    gradient of the student's scores (:math:`A^s - A^t`), is computed. Elsewhere the batch is one piece.

    Args:
        student: What was captured of a student block.
        teacher: What was captured of the teacher block that it is to follow; no gradient flows into it.
        valid: ``[batch, tokens]`` boolean, true where a token is not padding.

    Returns:
        ``[batch]``, in nats, float32 (float64 for float64 input); 0 for an example without tokens.

    References:
        Wang et al. (2020), arXiv:2002.10957, eq. 6.
    """
    if valid.device.type != "cpu" or student.query is None:
        return _batched_kl(student, teacher, valid)
    return _blockwise(student, teacher, valid, compare_divergence)


def attention_score_mse(student: SelfAttention, teacher: SelfAttention, valid: Tensor) -> Tensor:
    r"""Mean squared difference of scaled attention scores before the softmax, per example.

    .. math:: \frac{1}{H |E|} \sum_{h=1}^{H} \sum_{(i,j) \in E} (S^s_{hij} - S^t_{hij})^2

    over the pairs E of tokens that are not padding and of which both models let the first attend to the second.
    Where the numbers of heads differ, both are averaged over their heads first (H = 1).

    Args:
        student: What was captured of a student block: queries and keys.
        teacher: The same of the teacher block that it is to follow; no gradient flows into it.
        valid: ``[batch, tokens]`` boolean, true where a token is not padding.

    Returns:
        ``[batch]``, float32 (float64 for float64 input); 0 for an example without tokens.

    References:
        Jiao et al. (2020), arXiv:1909.10351, eq. 7, which their code takes over all entries, with padding set to 0.
    """
    if valid.device.type != "cpu":
        return _batched_score_mse(student, teacher, valid)
    return _blockwise(student, teacher, valid, compare_scores)


def _blockwise(student: SelfAttention, teacher: SelfAttention, valid: Tensor, compare: Compare) -> Tensor:
    values: Tensor = ScoreLoss.apply(student.query, student.key, student, teacher, valid, compare)  # type: ignore[no-untyped-call]
    return values


# ---- the batch in one piece: where launches are dear, and for finished maps ----


def _batched_mse(student: SelfAttention, teacher: SelfAttention, valid: Tensor) -> Tensor:
    """:func:`attention_mse` on whole maps, ``[batch, heads, tokens, tokens]``."""
    ours, theirs = (_whole_maps(attention, valid) for attention in (student, teacher))
    theirs = theirs.detach().to(ours.dtype)
    if ours.shape[1] != theirs.shape[1]:
        ours, theirs = ours.mean(1, keepdim=True), theirs.mean(1, keepdim=True)
    both = valid[:, None, :, None] & valid[:, None, None, :]
    squares = (ours - theirs).masked_fill(~both, 0.0).square().sum((1, 2, 3))
    return squares / (ours.shape[1] * valid.sum(-1).square()).clamp(min=1)


def _batched_kl(student: SelfAttention, teacher: SelfAttention, valid: Tensor) -> Tensor:
    """:func:`attention_kl` on whole maps, ``[batch, heads, tokens, tokens]``."""
    ours, theirs, hidden = _whole_scores(student, teacher, valid)
    ours, theirs = (F.log_softmax(s.masked_fill(hidden, NEVER), dim=-1) for s in (ours, theirs))
    if ours.shape[1] != theirs.shape[1]:
        ours, theirs = (s.exp().mean(1, keepdim=True).clamp(min=SMALLEST).log() for s in (ours, theirs))
    rows = (theirs.exp() * (theirs - ours)).sum(-1).masked_fill(~valid[:, None], 0.0)  # [batch, heads, tokens]
    return rows.sum((1, 2)) / (rows.shape[1] * valid.sum(-1)).clamp(min=1)


def _batched_score_mse(student: SelfAttention, teacher: SelfAttention, valid: Tensor) -> Tensor:
    """:func:`attention_score_mse` on whole scores, ``[batch, heads, tokens, tokens]``."""
    ours, theirs, hidden = _whole_scores(student, teacher, valid)
    if ours.shape[1] != theirs.shape[1]:
        ours, theirs = ours.mean(1, keepdim=True), theirs.mean(1, keepdim=True)
    difference = (ours - theirs).masked_fill(hidden, 0.0)
    shown = (~hidden.expand_as(difference)).sum((1, 2, 3))
    return difference.square().sum((1, 2, 3)) / shown.clamp(min=1)


def _whole_maps(attention: SelfAttention, valid: Tensor) -> Tensor:
    if attention.probabilities is not None:
        return precise(attention.probabilities)
    scores, hidden = _whole_scores_of(attention)
    padding = ~valid[:, None, None, :]
    return torch.softmax(scores.masked_fill(padding if hidden is None else padding | hidden, NEVER), dim=-1)


def _whole_scores(student: SelfAttention, teacher: SelfAttention, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of both, ``[batch, heads, tokens, tokens]``, and which entries are left out of the comparison."""
    (ours, ours_hidden), (theirs, theirs_hidden) = (_whole_scores_of(attention) for attention in (student, teacher))
    hidden = hidden_from_either(ours_hidden, theirs_hidden, same_heads=ours.shape[1] == theirs.shape[1])
    padding = ~(valid[:, None, :, None] & valid[:, None, None, :])
    return ours, theirs.detach().to(ours.dtype), padding if hidden is None else hidden | padding


def _whole_scores_of(attention: SelfAttention) -> tuple[Tensor, Tensor | None]:
    if attention.probabilities is not None:
        maps = precise(attention.probabilities)
        return maps.clamp(min=SMALLEST).log(), maps < SMALLEST
    query, key, mask = precise(attention.query), precise(attention.key), attention.mask  # type: ignore[arg-type]
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query @ key.transpose(-1, -2) * attention.scaling
    if mask is not None:
        return scores if mask.dtype == torch.bool else scores + mask, masked(mask)
    if attention.causal:
        return scores, torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)[None, None]
    return scores, None
