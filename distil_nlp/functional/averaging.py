"""One prediction out of several models' predictions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distil_nlp.functional.precision import precise


def mean_log_probabilities(logits: Tensor, weights: Tensor) -> Tensor:
    r"""Logarithm of the weighted mean of several distributions.

    .. math:: \log p(v) = \log \sum_m w_m(v) \, p_m(v) - \log \sum_m w_m(v) + c, \quad p_m = softmax(z_m)

    with c such that p sums to 1; it is 0 where a member's weight is the same for all classes. A weight of 0 for a class
    leaves it to the other members; the member's logit is -inf there.

    Args:
        logits: ``[members, ..., classes]``.
        weights: ``[members, ..., classes]``, or 1 in the place of any dimension but the first; not negative, and for
            each class above 0 for one member at least.

    Returns:
        ``[..., classes]``, float32 (float64 for float64 logits).

    References:
        Hinton, Vinyals, Dean (2015), arXiv:1503.02531, section 1 (the arithmetic mean of predictive distributions).
    """
    log_p = F.log_softmax(precise(logits), dim=-1)
    log_w = weights.to(log_p).log()
    mean = torch.logsumexp(log_w + log_p, dim=0) - torch.logsumexp(log_w, dim=0)
    return F.log_softmax(mean, dim=-1)


def mean_logits(logits: Tensor, weights: Tensor) -> Tensor:
    r"""Weighted mean of logits (or of a regression's values): :math:`\sum_m w_m z_m / \sum_m w_m`.

    Its softmax at any temperature is the normalised geometric mean of the members' at that temperature.

    Args:
        logits: ``[members, ..., classes]``.
        weights: As for :func:`mean_log_probabilities`; what a member of weight 0 says must be finite.

    Returns:
        ``[..., classes]``, float32 (float64 for float64 logits).

    References:
        Hinton, Vinyals, Dean (2015), arXiv:1503.02531, section 1 (the geometric mean of predictive distributions).
    """
    logits = precise(logits)
    weights = weights.to(logits)
    return (weights * logits).sum(0) / weights.sum(0)
