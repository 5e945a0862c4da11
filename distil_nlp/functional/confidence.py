"""How sure a model is of its prediction."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from distil_nlp.functional.precision import precise

CONFIDENCES = ("max_prob", "entropy")


def confidence(logits: Tensor, kind: str) -> Tensor:
    r"""Confidence in a prediction, 0 to 1, without a gradient.

    ``max_prob``: :math:`\max_v p(v)`, which is 1/vocab for a uniform distribution; ``entropy``:
    :math:`1 - H(p) / \log vocab`, which is 0 for it. Both are 1 for a certain one.

    Args:
        logits: ``[..., vocab]``.
        kind: One of :data:`CONFIDENCES`.

    Returns:
        ``[...]``, float32 (float64 for float64 logits).
    """
    logits = precise(logits.detach())
    if kind == "max_prob":
        return logits.softmax(-1).amax(-1)
    if logits.shape[-1] == 1:
        return torch.ones_like(logits[..., 0])
    log_p = F.log_softmax(logits, dim=-1)
    entropy = -torch.where(log_p > -math.inf, log_p.exp() * log_p, 0.0).sum(-1)
    return (1 - entropy / math.log(logits.shape[-1])).clamp(0, 1)
