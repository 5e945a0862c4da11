"""From tokens to one representation of an example."""

from __future__ import annotations

import torch
from torch import Tensor

from distil_nlp.functional.precision import precise

POOLINGS = ("mean", "cls", "last")


def pool(hidden_states: Tensor, valid: Tensor, pooling: str) -> Tensor:
    r"""Pools the tokens that are not padding, wherever the padding is.

    ``mean``: :math:`\frac{1}{n} \sum_{i \in valid} h_i`; ``cls``: the first valid token; ``last``: the last one.

    Args:
        hidden_states: ``[batch, tokens, width]``.
        valid: ``[batch, tokens]`` boolean.
        pooling: One of :data:`POOLINGS`.

    Returns:
        ``[batch, width]``, float32 (float64 for float64 input); zeros for a mean over nothing.
    """
    states = precise(hidden_states)
    if pooling == "mean":
        share = valid.to(states.dtype) / valid.sum(-1, keepdim=True).clamp(min=1)
        return torch.einsum("bt,btw->bw", share, states)
    places = torch.arange(valid.shape[1], device=valid.device)
    order = places if pooling == "last" else -places
    token = order.masked_fill(~valid, -valid.shape[1]).argmax(-1)
    return states[torch.arange(len(states), device=states.device), token]
