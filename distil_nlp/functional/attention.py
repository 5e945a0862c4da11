"""Attention maps rebuilt from queries and keys, and how far two of them are apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distil_nlp.signals import SelfAttention


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
    if attention.probabilities is not None:
        maps = attention.probabilities[example][:, tokens][:, :, tokens]
        return maps if maps.dtype == torch.float64 else maps.float()
    query, key = query_and_key(attention, example, tokens)
    return torch.softmax(_scores(attention, query, key, example, tokens), dim=-1)


def attention_mse(student: SelfAttention, teacher: SelfAttention, valid: Tensor) -> Tensor:
    r"""Mean squared difference of attention maps, per example.

    .. math:: \frac{1}{H n^2} \sum_{h=1}^{H} \sum_{i,j=1}^{n} (A^s_{hij} - A^t_{hij})^2

    over the n tokens that are not padding; where the numbers of heads differ, both maps are averaged over their
    heads first (H = 1). For examples without padding this is ``F.mse_loss`` of the two stacks of maps.

    On a CPU maps are never held for a whole batch: each example's pair lives in cache while its value, and with it
    the gradient of the student's scores, is computed. Elsewhere the batch is one piece: there launches are dear.

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
    if valid.device.type != "cpu":
        return _batched_mse(student, teacher, valid)
    if student.query is not None and student.key is not None:
        values: Tensor = _AttentionMSE.apply(student.query, student.key, student, teacher, valid)  # type: ignore[no-untyped-call]
        return values
    parts = []
    for example, tokens in enumerate(valid_indices(valid)):
        maps = attention_probabilities(student, example, tokens)
        parts.append(_map_difference(maps, attention_probabilities(teacher, example, tokens))[0])
    return torch.stack(parts)


def _batched_mse(student: SelfAttention, teacher: SelfAttention, valid: Tensor) -> Tensor:
    """:func:`attention_mse` on whole maps, ``[batch, heads, tokens, tokens]``."""
    maps = [_whole_maps(attention, valid) for attention in (student, teacher)]
    if maps[0].shape[1] != maps[1].shape[1]:
        maps = [each.mean(1, keepdim=True) for each in maps]
    both = valid[:, None, :, None] & valid[:, None, None, :]
    squares = (maps[0] - maps[1]).masked_fill(~both, 0.0).square().sum((1, 2, 3))
    return squares / (maps[0].shape[1] * valid.sum(-1).square()).clamp(min=1)


def _whole_maps(attention: SelfAttention, valid: Tensor) -> Tensor:
    if attention.probabilities is not None:
        return attention.probabilities.float()
    query, key = attention.query, attention.key
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)  # type: ignore[union-attr]
    precise = torch.promote_types(query.dtype, torch.float32)  # type: ignore[union-attr]
    scores = query.to(precise) @ key.to(precise).transpose(-1, -2) * attention.scaling  # type: ignore[union-attr]
    hidden = ~valid[:, None, None, :]
    if attention.mask is not None and attention.mask.dtype == torch.bool:
        hidden = hidden | ~attention.mask
    elif attention.mask is not None:
        scores = scores + attention.mask
    elif attention.causal:
        hidden = hidden | torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return torch.softmax(scores.masked_fill(hidden, torch.finfo(precise).min), dim=-1)


class _AttentionMSE(torch.autograd.Function):
    """:func:`attention_mse` with the gradient of queries and keys taken while each map is at hand."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, student: SelfAttention, teacher: SelfAttention, valid: Tensor
    ) -> Tensor:
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        # In float32 until the loss scale of fp16 training has been applied: these numbers are small.
        precise = torch.promote_types(query.dtype, torch.float32)
        values, grad_query, grad_key = [], torch.zeros_like(query, dtype=precise), torch.zeros_like(key, dtype=precise)
        for example, tokens in enumerate(valid_indices(valid)):
            rows, columns = query_and_key(student, example, tokens)
            maps = torch.softmax(_scores(student, rows, columns, example, tokens), dim=-1)
            theirs = attention_probabilities(teacher, example, tokens).to(maps.dtype)
            value, slope = _map_difference(maps, theirs)
            values.append(value)
            if not wanted:
                continue
            # softmax backward: dS = A * (dA - sum_j dA A)
            slope = (slope - (slope * maps).sum(-1, keepdim=True)).mul_(maps).mul_(student.scaling)
            groups = query.shape[1] // key.shape[1]
            grad_query[example][:, tokens] = slope @ columns
            by_head = slope.transpose(-1, -2) @ rows  # [heads, valid, head_width]
            grad_key[example][:, tokens] = by_head.view(key.shape[1], groups, *by_head.shape[1:]).sum(1)
        ctx.save_for_backward(grad_query, grad_key)
        ctx.dtypes = query.dtype, key.dtype
        return torch.stack(values)

    @staticmethod
    def backward(ctx: Any, grad_values: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_query, grad_key = ctx.saved_tensors
        scale = grad_values.view(-1, 1, 1, 1)
        return (
            (grad_query * scale).to(grad_query.dtype),
            (grad_key * scale).to(grad_key.dtype),
            None,
            None,
            None,
        )


def _map_difference(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Value of one example and its derivative by the student's maps, both over ``[heads, valid, valid]``."""
    heads = student.shape[0]
    if heads == teacher.shape[0]:
        difference = student - teacher
        entries = max(difference.numel(), 1)
        return difference.square().sum() / entries, difference * (2 / entries)
    difference = student.mean(0) - teacher.mean(0)
    entries = max(difference.numel(), 1)
    return difference.square().sum() / entries, (difference * (2 / entries / heads)).expand(heads, -1, -1)


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
    return (query, key) if query.dtype == torch.float64 else (query.float(), key.float())


def _scores(attention: SelfAttention, query: Tensor, key: Tensor, example: int, tokens: Any) -> Tensor:
    scores = torch.baddbmm(query.new_empty(1), query, key.transpose(-1, -2), beta=0, alpha=attention.scaling)
    mask = attention.mask
    if mask is not None:
        part = mask[example if mask.shape[0] > 1 else 0]
        part = part[:, tokens if part.shape[1] > 1 else slice(None)][:, :, tokens]
        if part.dtype != torch.bool:
            return scores.add_(part)
        return scores if part.all() else scores.masked_fill_(~part, float("-inf"))
    if attention.causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores.masked_fill_(later, float("-inf"))
    return scores
