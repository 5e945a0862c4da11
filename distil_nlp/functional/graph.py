"""Graphs of similar representations, and messages passed along their edges."""

from __future__ import annotations

import torch
from torch import Tensor

from distil_nlp.functional.precision import precise
from distil_nlp.functional.similarity import unit


def nearest_neighbours(features: Tensor, valid: Tensor, *, neighbours: int) -> Tensor:
    r"""Joins each node with the nodes that are most similar to it.

    .. math:: A_{ij} = 1 \text{ if } j \in N_k(i) \text{ or } i \in N_k(j), \quad i \ne j

    where :math:`N_k(i)` are the k nodes of the highest cosine similarity to i, and all that tie with the last of them,
    so that the order of nodes does not matter.

    Args:
        features: ``[graphs, nodes, width]``; no gradient flows back.
        valid: ``[graphs, nodes]`` boolean; other nodes have no edges.
        neighbours: k, at least 1.

    Returns:
        ``[graphs, nodes, nodes]`` boolean, symmetric, false on the diagonal.

    References:
        Zhou et al. (2021), arXiv:2108.05507: their graph's edges come from nearest neighbours, too (directed, and among
        the examples of a batch by their predictions).
    """
    nodes = features.shape[1]
    itself = torch.eye(nodes, dtype=torch.bool, device=features.device)
    possible = valid[:, :, None] & valid[:, None, :] & ~itself
    k = min(neighbours, nodes - 1)
    if k < 1:
        return possible
    with torch.no_grad():
        units = unit(_masked(features, valid))
        similarities = (units @ units.transpose(1, 2)).masked_fill(~possible, float("-inf"))
        least = similarities.topk(k, dim=-1).values[..., -1:]  # -inf where a node has fewer than k others
        chosen = (similarities >= least) & possible
    return chosen | chosen.transpose(1, 2)


def propagate(features: Tensor, adjacency: Tensor, valid: Tensor, *, steps: int) -> Tensor:
    r"""Passes messages along the edges, with nothing to learn.

    .. math:: \hat H = (D^{-1/2} (A + I) D^{-1/2})^K H, \quad D_{ii} = 1 + \sum_j A_{ij}

    Args:
        features: H, ``[graphs, nodes, width]``.
        adjacency: A, ``[graphs, nodes, nodes]`` boolean, symmetric, false on the diagonal.
        valid: ``[graphs, nodes]`` boolean.
        steps: K, the number of edges that a message travels; 0 leaves the features as they are.

    Returns:
        ``[graphs, nodes, width]``, float32 (float64 for float64 input), zeros at nodes that are not valid.

    References:
        Wu et al. (2019), arXiv:1902.07153 (simple graph convolution), without its classifier.
    """
    states = _masked(features, valid)
    degrees = 1 + adjacency.sum(-1, keepdim=True)
    scale = degrees.to(states.dtype).rsqrt()  # [graphs, nodes, 1]
    for _ in range(steps):
        scaled = states * scale
        states = (adjacency.to(states.dtype) @ scaled + scaled) * scale
    return states


def edge_difference(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    r"""Squared difference between the cosine similarities of a node to all others, their mean.

    .. math:: \frac{1}{n-1} \sum_{j \ne i} (\cos(s_i, s_j) - \cos(t_i, t_j))^2

    Args:
        student: ``[graphs, nodes, width]``.
        teacher: ``[graphs, nodes, width]``; the widths may differ.
        valid: ``[graphs, nodes]`` boolean.

    Returns:
        ``[graphs, nodes]``, float32 (float64 for float64 input), 0 at nodes that are not valid or alone.

    References:
        Liu et al. (2019), CVPR, "Knowledge Distillation via Instance Relationship Graph": the edges of their graph are
        squared Euclidean distances.
    """
    units = [unit(_masked(states, valid)) for states in (student, teacher)]
    similarities = [each @ each.transpose(1, 2) for each in units]
    itself = torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
    pairs = valid[:, :, None] & valid[:, None, :] & ~itself
    squares = (similarities[0] - similarities[1]).square().masked_fill(~pairs, 0.0)
    return squares.sum(-1) / pairs.sum(-1).clamp(min=1)


def _masked(features: Tensor, valid: Tensor) -> Tensor:
    return precise(features).masked_fill(~valid[..., None], 0.0)
