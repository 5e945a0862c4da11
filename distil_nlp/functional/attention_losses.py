"""How far two blocks' self-attention is apart before the softmax, and in the terms of a divergence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distil_nlp.functional.attention import query_and_key, valid_indices
from distil_nlp.signals import SelfAttention

Compare = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor, int]]

NEVER = -1e30  # a score that no softmax sees, and that is still finite
MASKED = -1e4  # additive masks hold this or less where a token may not attend
SMALLEST = 1e-30  # a finished map's entry below this was masked or dropped
BLOCK = 1 << 18  # scores that are worked on at a time, so that they stay in a core's cache


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
    values: Tensor = _ScoreLoss.apply(student.query, student.key, student, teacher, valid, _compare_maps)  # type: ignore[no-untyped-call]
    return values


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
    values: Tensor = _ScoreLoss.apply(student.query, student.key, student, teacher, valid, _compare_scores)  # type: ignore[no-untyped-call]
    return values


# ---- on a CPU: example by example, in blocks of rows ----


class _ScoreLoss(torch.autograd.Function):
    """A loss on scores, with the gradient of queries and keys taken while each block of scores is at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        student: SelfAttention,
        teacher: SelfAttention,
        valid: Tensor,
        compare: Compare,
    ) -> Tensor:
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        # In float32 until the loss scale of fp16 training has been applied: these numbers are small.
        precise = torch.promote_types(query.dtype, torch.float32)
        values, grad_query, grad_key = [], torch.zeros_like(query, dtype=precise), torch.zeros_like(key, dtype=precise)
        for example, tokens in enumerate(valid_indices(valid)):
            ours, theirs = _Scores(student, example, tokens), _Scores(teacher, example, tokens)
            value, by_query, by_key = _one_example(ours, theirs, compare, wanted=wanted)
            values.append(value)
            if not wanted:
                continue
            grad_query[example][:, tokens] = by_query
            groups = query.shape[1] // key.shape[1]
            grad_key[example][:, tokens] = by_key.view(key.shape[1], groups, *by_key.shape[1:]).sum(1)
        ctx.save_for_backward(grad_query, grad_key)
        return torch.stack(values)

    @staticmethod
    def backward(ctx: Any, grad_values: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_values.view(-1, 1, 1, 1)
        grad_query, grad_key = ctx.saved_tensors
        return grad_query * scale, grad_key * scale, None, None, None, None


class _Scores:
    """One example's scores, made for some of its queries at a time.

    Attributes:
        hidden: ``[heads or 1, valid, valid]``, true where a token may not attend; None where all may.
    """

    def __init__(self, attention: SelfAttention, example: int, tokens: Any) -> None:
        self.scaling = attention.scaling
        self.bias: Tensor | None = None
        self.maps: Tensor | None = None
        if attention.probabilities is not None:
            self.maps = _precise(attention.probabilities[example][:, tokens][:, :, tokens])
            self.heads, self.tokens = self.maps.shape[:2]
            self.hidden = _unless_empty(self.maps < SMALLEST)
            return
        self.query, self.key = query_and_key(attention, example, tokens)
        self.heads, self.tokens = self.query.shape[:2]
        self.hidden, mask = None, attention.mask
        if mask is not None:
            mask = mask[example if len(mask) > 1 else 0].expand(-1, mask.shape[-1], -1)
            mask = mask[:, tokens][:, :, tokens]
            self.hidden = _unless_empty(_masked(mask))
            self.bias = mask.to(self.query.dtype) if mask.dtype != torch.bool and mask.any() else None
        elif attention.causal:
            self.hidden = torch.ones(1, self.tokens, self.tokens, dtype=torch.bool).triu(1)

    def rows(self, part: slice) -> Tensor:
        """``[heads, rows, valid]``; of a finished map its logarithm."""
        if self.maps is not None:
            return self.maps[:, part].clamp(min=SMALLEST).log_()
        keys = self.key.transpose(-1, -2)
        scores = torch.baddbmm(keys.new_empty(1), self.query[:, part], keys, beta=0, alpha=self.scaling)
        return scores if self.bias is None else scores.add_(self.bias[:, part])


def _one_example(ours: _Scores, theirs: _Scores, compare: Compare, *, wanted: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Value and, if wanted, derivative by the student's queries and (repeated) keys, ``[heads, valid, head_width]``."""
    hidden = _hidden_from_either(ours.hidden, theirs.hidden, same_heads=ours.heads == theirs.heads)
    by_query, by_key = torch.empty_like(ours.query), torch.zeros_like(ours.key)
    value, count = ours.query.new_zeros(()), 0
    rows = max(1, BLOCK // max(1, ours.heads * ours.tokens))
    for first in range(0, ours.tokens, rows):
        part = slice(first, first + rows)
        targets = theirs.rows(part).to(by_query.dtype)
        left_out = None if hidden is None else hidden[:, part]
        sum_of_part, slope, entries = compare(ours.rows(part), targets, left_out)
        value += sum_of_part
        count += entries
        if not wanted:
            continue
        by_query[:, part] = slope @ ours.key
        by_key.baddbmm_(slope.transpose(-1, -2), ours.query[:, part])
    share = 1 / max(count, 1)
    return value * share, by_query.mul_(share * ours.scaling), by_key.mul_(share * ours.scaling)


def _compare_maps(ours: Tensor, theirs: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor, int]:
    """Sum of the divergences of some rows, its derivative by the student's scores, and the number of rows.

    Args:
        ours: ``[heads, rows, valid]``, overwritten, like ``theirs``.
        theirs: ``[teacher_heads, rows, valid]``.
        hidden: ``[heads or 1, rows, valid]``, entries that are left out.
    """
    if hidden is not None:
        ours, theirs = ours.masked_fill_(hidden, NEVER), theirs.masked_fill_(hidden, NEVER)
    maps, targets = torch.softmax(ours, dim=-1), torch.softmax(theirs, dim=-1)
    if len(maps) != len(targets):
        return _compare_mean_maps(maps, targets.mean(0))
    # A row's log-sum-exp is its largest score less the logarithm of its largest probability.
    ours_sum, theirs_sum = (s.amax(-1) - p.amax(-1).log_() for s, p in ((ours, maps), (theirs, targets)))
    value = torch.dot(targets.reshape(-1), theirs.sub_(ours).reshape(-1)) - (theirs_sum - ours_sum).sum()
    return value, maps.sub_(targets), maps.shape[0] * maps.shape[1]


def _compare_mean_maps(maps: Tensor, target: Tensor) -> tuple[Tensor, Tensor, int]:
    """As :func:`_compare_maps`, for the mean over ``[heads, rows, valid]`` against ``[rows, valid]``."""
    ours, theirs = (p.clamp(min=SMALLEST) for p in (maps.mean(0), target))
    value = (target * (theirs.log() - ours.log())).sum()
    slope = target / ours / -len(maps)  # by each head's map
    slope = (slope - (slope * maps).sum(-1, keepdim=True)) * maps  # softmax backward
    return value, slope, maps.shape[1]


def _compare_scores(ours: Tensor, theirs: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor, int]:
    """Sum of squared differences, its derivative by the student's scores, and the number of entries."""
    heads = len(ours)
    difference = ours.sub_(theirs) if heads == len(theirs) else (ours.mean(0) - theirs.mean(0))[None]
    entries = difference.numel()
    if hidden is not None:
        difference.masked_fill_(hidden, 0.0)
        entries -= int(hidden.sum()) * (len(difference) // len(hidden))
    slope = difference * (2 * len(difference) / heads)
    return difference.square().sum(), slope.expand(heads, -1, -1), entries


# ---- elsewhere: the batch in one piece ----


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


def _whole_scores(student: SelfAttention, teacher: SelfAttention, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of both, ``[batch, heads, tokens, tokens]``, and which entries are left out of the comparison."""
    (ours, ours_hidden), (theirs, theirs_hidden) = (_whole_scores_of(attention) for attention in (student, teacher))
    hidden = _hidden_from_either(ours_hidden, theirs_hidden, same_heads=ours.shape[1] == theirs.shape[1])
    padding = ~(valid[:, None, :, None] & valid[:, None, None, :])
    return ours, theirs.detach().to(ours.dtype), padding if hidden is None else hidden | padding


def _whole_scores_of(attention: SelfAttention) -> tuple[Tensor, Tensor | None]:
    if attention.probabilities is not None:
        maps = _precise(attention.probabilities)
        return maps.clamp(min=SMALLEST).log(), maps < SMALLEST
    query, key, mask = _precise(attention.query), _precise(attention.key), attention.mask  # type: ignore[arg-type]
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query @ key.transpose(-1, -2) * attention.scaling
    if mask is not None:
        return scores if mask.dtype == torch.bool else scores + mask, _masked(mask)
    if attention.causal:
        return scores, torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)[None, None]
    return scores, None


# ---- what both have in common ----


def _hidden_from_either(ours: Tensor | None, theirs: Tensor | None, *, same_heads: bool) -> Tensor | None:
    """Entries that either hides, ``[..., heads or 1, tokens, tokens]``; 1 where the numbers of heads differ."""
    masks = [mask if same_heads else mask.all(-3, keepdim=True) for mask in (ours, theirs) if mask is not None]
    if not masks:
        return None
    return masks[0] if len(masks) == 1 else masks[0] | masks[1]


def _masked(mask: Tensor) -> Tensor:
    return ~mask if mask.dtype == torch.bool else mask <= MASKED


def _unless_empty(mask: Tensor) -> Tensor | None:
    return mask if mask.any() else None


def _precise(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
