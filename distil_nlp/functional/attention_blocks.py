"""Losses between two blocks' self-attention on a CPU: example by example, in blocks of rows that stay in cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distil_nlp.functional.attention import NEVER, SMALLEST, Scores, valid_indices
from distil_nlp.signals import SelfAttention

# Of some rows of both, and with entries that are to be left out, ``[heads or 1, rows, valid]``: the sum of a loss,
# its derivative by the student's scores, and how many entries or rows it is a sum of.
Compare = Callable[[Scores, Scores, slice, Tensor | None], tuple[Tensor, Tensor, int]]

BLOCK = 1 << 18  # scores that are worked on at a time, so that they stay in a core's cache


class ScoreLoss(torch.autograd.Function):
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
            ours, theirs = Scores(student, example, tokens), Scores(teacher, example, tokens)
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


def _one_example(ours: Scores, theirs: Scores, compare: Compare, *, wanted: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Value and, if wanted, derivative by the student's queries and (repeated) keys, ``[heads, valid, head_width]``."""
    hidden = hidden_from_either(ours.hidden, theirs.hidden, same_heads=ours.heads == theirs.heads)
    by_query, by_key = torch.empty_like(ours.query), torch.zeros_like(ours.key)
    value, count = ours.query.new_zeros(()), 0
    rows = max(1, BLOCK // max(1, ours.heads * ours.tokens))
    for first in range(0, ours.tokens, rows):
        part = slice(first, first + rows)
        sum_of_part, slope, entries = compare(ours, theirs, part, None if hidden is None else hidden[:, part])
        value += sum_of_part
        count += entries
        if not wanted:
            continue
        by_query[:, part] = slope @ ours.key
        by_key.baddbmm_(slope.transpose(-1, -2), ours.query[:, part])
    share = 1 / max(count, 1)
    return value * share, by_query.mul_(share * ours.scaling), by_key.mul_(share * ours.scaling)


def compare_maps(student: Scores, teacher: Scores, part: slice, hidden: Tensor | None) -> tuple[Tensor, Tensor, int]:
    """Squared differences of probabilities, each model's under its own mask: nothing is left out."""
    maps = student.probabilities(part)
    targets, heads = teacher.probabilities(part).to(maps.dtype), len(maps)
    difference = maps - targets if heads == len(targets) else (maps.mean(0) - targets.mean(0))[None]
    flat = difference.view(-1)
    slope = _softmax_backward(difference, maps).mul_(2 * len(difference) / heads)
    return torch.dot(flat, flat), slope, difference.numel()


def compare_divergence(
    student: Scores, teacher: Scores, part: slice, hidden: Tensor | None
) -> tuple[Tensor, Tensor, int]:
    """Divergences of rows."""
    ours, theirs = _rows_of_both(student, teacher, part)
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
    """As :func:`compare_divergence`, for the mean over ``[heads, rows, valid]`` against ``[rows, valid]``."""
    ours, theirs = (p.clamp(min=SMALLEST) for p in (maps.mean(0), target))
    value = (target * (theirs.log() - ours.log())).sum()
    slope = _softmax_backward(target / ours / -len(maps), maps)
    return value, slope, maps.shape[1]


def compare_scores(student: Scores, teacher: Scores, part: slice, hidden: Tensor | None) -> tuple[Tensor, Tensor, int]:
    """Squared differences of scores."""
    ours, theirs = _rows_of_both(student, teacher, part)
    heads = len(ours)
    difference = ours.sub_(theirs) if heads == len(theirs) else (ours.mean(0) - theirs.mean(0))[None]
    entries = difference.numel()
    if hidden is not None:
        difference.masked_fill_(hidden, 0.0)
        entries -= int(hidden.sum()) * (len(difference) // len(hidden))
    slope = difference * (2 * len(difference) / heads)
    return difference.square().sum(), slope.expand(heads, -1, -1), entries


def _rows_of_both(student: Scores, teacher: Scores, part: slice) -> tuple[Tensor, Tensor]:
    ours = student.rows(part)
    return ours, teacher.rows(part).to(ours.dtype)


def _softmax_backward(slope: Tensor, maps: Tensor) -> Tensor:
    """From the derivative by ``[heads, rows, valid]`` maps, or the same one for all heads, that by their scores."""
    change: Tensor = slope - torch.linalg.vecdot(slope, maps)[..., None]
    return change * maps


def hidden_from_either(ours: Tensor | None, theirs: Tensor | None, *, same_heads: bool) -> Tensor | None:
    """Entries that either hides, ``[..., heads or 1, tokens, tokens]``; 1 where the numbers of heads differ."""
    masks = [mask if same_heads else mask.all(-3, keepdim=True) for mask in (ours, theirs) if mask is not None]
    if not masks:
        return None
    return masks[0] if len(masks) == 1 else masks[0] | masks[1]
