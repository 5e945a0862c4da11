"""Losses over a large vocabulary, without ever holding all of its logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distil_nlp.objectives.base import Objective
from distil_nlp.signals import ItemLogits, VocabularyHead

CHUNK_BYTES = 64 * 2**20  # float32 logits of one model that are held at a time

Head = ItemLogits | Tensor


def vocabulary_terms(
    objectives: Sequence[Objective],
    counts: Sequence[Tensor],
    student: VocabularyHead,
    teacher: Head | None,
    target: Any,
) -> tuple[Tensor, list[Tensor]]:
    r"""Terms of several objectives on the logits :math:`z = W h + b` of one student, in one pass over its items.

    .. math:: L = \sum_o \frac{w_o}{n_o} \sum_i \ell_o(W h_i + b, W' h'_i + b', y_i)

    Items are taken a few at a time. Logits, losses and the gradients with respect to h, W and b are made for those
    alone; so the backward pass needs no logits, and none are kept. The largest things held are one chunk's logits of
    either model and the gradient of W.

    Args:
        objectives: Objectives that are :attr:`~distil_nlp.objectives.Objective.by_item`.
        counts: Items of the whole step, for each objective.
        student: The student's head and its inputs, ``[items, width]``.
        teacher: The teacher's likewise, or its logits at the items, ``[items, vocab]``; None without a teacher.
        target: ``[items]`` labels, or None.

    Returns:
        The sum of the terms, which carries the gradient, and each weighted term, which does not.

    References:
        Hsu et al. (2024), arXiv:2410.10989, FusedLinearCrossEntropy (gradients of a linear layer and its loss made in
        the forward pass, chunk by chunk); here in torch, and for any loss.
    """
    factors = [objective.factor / count for objective, count in zip(objectives, counts, strict=True)]
    linear = student.linear
    total, terms = _ChunkedTerms.apply(  # type: ignore[no-untyped-call]
        student.inputs, linear.weight, linear.bias, student, objectives, factors, teacher, target
    )
    return total, list(terms)


class _ChunkedTerms(torch.autograd.Function):
    """The sum of all terms; the student's gradient is made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        student: VocabularyHead,
        objectives: Sequence[Objective],
        factors: Sequence[Tensor],
        teacher: Head | None,
        target: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        cast, cast_bias = student.weights  # under autocast the head is run in its dtype, as the model would
        wanted = [tensor is not None and tensor.requires_grad for tensor in (inputs, weight, bias)]
        grad_inputs = torch.zeros_like(inputs) if wanted[0] else None
        grad_weight = torch.zeros_like(weight) if wanted[1] else None
        grad_bias = torch.zeros_like(bias) if bias is not None and wanted[2] else None
        terms = inputs.new_zeros(len(objectives), dtype=torch.promote_types(inputs.dtype, torch.float32))
        for rows in _chunks(len(inputs), weight.shape[0]):
            hidden = inputs[rows]
            logits = F.linear(hidden.to(cast.dtype), cast, cast_bias)
            labels = None if target is None else target[rows]
            values, slope = _differentiate(objectives, factors, logits, _logits(teacher, rows), labels)
            terms += values
            if grad_inputs is not None:
                grad_inputs[rows] = (slope @ cast.to(slope.dtype)).to(inputs.dtype)
            if grad_weight is not None:
                _add_product(grad_weight, slope, hidden)
            if grad_bias is not None:
                grad_bias += slope.sum(0)
        ctx.grads = grad_inputs, grad_weight, grad_bias
        ctx.mark_non_differentiable(terms)
        return terms.sum(), terms

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("The loss over the vocabulary can be differentiated once.")
        grads, ctx.grads = ctx.grads, None  # scaled in place: one of them is as large as the head
        return (*(grad if grad is None else grad.mul_(grad_total.to(grad.dtype)) for grad in grads), *[None] * 5)


def _differentiate(
    objectives: Sequence[Objective],
    factors: Sequence[Tensor],
    logits: Tensor,
    theirs: Tensor | None,
    labels: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Weighted terms of a chunk, ``[objectives]``, and the slope of their sum, ``[items, vocab]``."""
    leaf = (logits.float() if logits.dtype == torch.float16 else logits).detach().requires_grad_()  # slopes underflow
    with torch.enable_grad():
        sums = [
            objective.item_values(leaf, theirs, labels).sum() * factor
            for objective, factor in zip(objectives, factors, strict=True)
        ]
        values = torch.stack(sums)
        slope = torch.autograd.grad(values.sum(), leaf)[0]
    return values.detach(), slope


def _add_product(total: Tensor, slope: Tensor, hidden: Tensor) -> None:
    """``total += slope^T hidden``: ``[vocab, width]``."""
    if total.dtype == slope.dtype == hidden.dtype:
        total.addmm_(slope.t(), hidden)
    else:
        total += slope.t() @ hidden.to(slope.dtype)


def _logits(teacher: Head | None, rows: slice) -> Tensor | None:
    if teacher is None or isinstance(teacher, Tensor):
        return None if teacher is None else teacher[rows]
    return teacher.logits(rows)


def _chunks(items: int, vocabulary: int) -> Iterator[slice]:
    """Slices of even size whose float32 logits fit into :data:`CHUNK_BYTES`."""
    most = max(1, CHUNK_BYTES // (4 * vocabulary))
    size = -(-items // max(1, -(-items // most)))
    for first in range(0, items, max(size, 1)):
        yield slice(first, first + size)
