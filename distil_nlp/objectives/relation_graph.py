"""Graph-based distillation: tokens or examples as vertices, similarity as edges."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from distil_nlp.errors import RecipeError, near_match
from distil_nlp.functional.graph import edge_difference, nearest_neighbours, propagate
from distil_nlp.functional.similarity import mean_squared_error
from distil_nlp.mapping import MappingSpec
from distil_nlp.objectives.base import OBJECTIVES
from distil_nlp.objectives.on_examples import LAST, ExampleObjective
from distil_nlp.projection import Projection, ProjectionSettings, ProjectionSpec
from distil_nlp.signals import Batch, Shape, Signals, valid_tokens

NODES = ("tokens", "examples")


@OBJECTIVES.register("relation_graph")
class RelationGraph(ExampleObjective):
    r"""Matches vertices and edges of two graphs, after messages have passed along each.

    .. math:: \frac{\alpha}{n} \sum_i \frac{1}{d} \| W \hat h^s_i - \hat h^t_i \|^2
        + \frac{\beta}{n(n-1)} \sum_{i \ne j} (\cos(\hat h^s_i, \hat h^s_j) - \cos(\hat h^t_i, \hat h^t_j))^2, \quad
        \hat H = (D^{-1/2} (A + I) D^{-1/2})^K H

    Vertices are the tokens of an example that are not padding, one graph each, or the pooled examples of a micro-batch,
    all in one graph. Either model has its own graph: A joins each vertex with the k most similar by cosine, in either
    direction, and D counts edges. :math:`\hat H` is what a vertex knows after K rounds of messages from its neighbours:
    itself (individual knowledge) together with whom it is near to (relational knowledge). The edges compared are those
    between all pairs, weighted by similarity. The mean over pairs of layers is taken.

    The message passing is the same for both models and has no parameters. A learned transform that both share could
    shrink both sides to 0, and one each (as in HKD) needs a contrastive loss to stop it; a fixed linear one changes
    nothing that W does not undo. What is trained is W alone, on the student's vertices, and only where the widths
    differ (``projection: auto``); the teacher's side is fixed, so there is nothing to shrink.

    Use it where ``hidden_states`` is too strict, or to hand on which tokens (or examples) belong together. Memory grows
    with the square of the vertices of a graph.

    Args:
        nodes: ``tokens`` (a value depends on its own example only) or ``examples`` (relational).
        neighbours: k, at least 1.
        steps: K, at least 0; more than 3 make all vertices alike.
        vertices: :math:`\alpha`, at least 0.
        edges: :math:`\beta`, at least 0.
        mapping: Which student block follows which teacher block; the last follows the last.
        projection: ``"auto"``, ``"linear"``, ``"mlp"``, ``"orthogonal"`` or ``"none"``, or a mapping with ``kind``,
            ``shared`` and ``side`` (:class:`~distil_nlp.projection.ProjectionSettings`).
        pooling: ``mean``, ``cls`` or ``last``, for examples as vertices.
        weight: Factor on the term in the total.

    References:
        Liu et al. (2019), CVPR, "Knowledge Distillation via Instance Relationship Graph" (IRG): vertices and edges,
        each with a loss, which is this with ``nodes: examples, steps: 0``. Theirs are edges of squared Euclidean
        distance, here cosine similarity, which needs no scale; their third loss, on the change from layer to layer, is
        left out.
        Zhou et al. (2021), arXiv:2108.05507 (HKD): features passed along a nearest-neighbour graph of either model,
        k = 8. Theirs is a graph convolution learned for either model, on neighbours by predictions, followed by InfoNCE
        with a memory bank; here simple graph convolution (Wu et al. 2019, arXiv:1902.07153, K = 2), on neighbours by
        features, followed by the losses of IRG. Tokens as vertices are in neither.
    """

    name = "relation_graph"
    relational: ClassVar[bool] = False  # for tokens, the default

    def __init__(
        self,
        *,
        nodes: str = "tokens",
        neighbours: int = 8,
        steps: int = 2,
        vertices: float = 1.0,
        edges: float = 1.0,
        mapping: MappingSpec = LAST,
        projection: ProjectionSpec = "auto",
        pooling: str = "mean",
        weight: float = 1.0,
    ) -> None:
        super().__init__(mapping=mapping, pooling=pooling, weight=weight)
        if nodes not in NODES:
            raise RecipeError(f"relation_graph.nodes is '{nodes}'.", near_match(nodes, NODES))
        for key, value, least in (("neighbours", neighbours, 1), ("steps", steps, 0)):
            if not isinstance(value, int) or value < least:
                usual = "8 neighbours and 2 steps are the defaults."
                raise RecipeError(f"relation_graph.{key} is {value}.", f"It is a whole number from {least} on.", usual)
        if min(vertices, edges) < 0 or max(vertices, edges) == 0:
            raise RecipeError(
                f"relation_graph.vertices is {vertices}, relation_graph.edges is {edges}.",
                "Neither is negative, and at least one is above 0.",
                "1 and 1 are the defaults.",
            )
        self.nodes, self.neighbours, self.steps = nodes, neighbours, steps
        self.vertices, self.edges = vertices, edges
        self.relational = nodes == "examples"  # type: ignore[misc]  # an instance decides
        self.projection_settings = ProjectionSettings.read(projection)
        self.projection: Projection | None = None

    def bind(self, student: Shape, teacher: Shape | None) -> None:
        super().bind(student, teacher)
        if self.vertices and teacher is not None:
            self.projection = Projection.between(
                student, teacher, self.projection_settings, count=len(self.pairs), known=self.projection
            )

    def values(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        if self.nodes == "examples":
            pooled = self.pooled(student, teacher, batch)
            everyone = torch.ones(1, len(pooled[0][0]), dtype=torch.bool, device=pooled[0][0].device)
            per_pair = [self._compare(s[None], t[None], everyone, pair)[0] for pair, (s, t) in enumerate(pooled)]
            return self.combine(per_pair)  # [examples]
        valid = valid_tokens(batch)
        graphs = [
            self._compare(student.hidden_states[s], teacher.hidden_states[t], valid, pair)
            for pair, (s, t) in enumerate(self.pairs)
        ]
        tokens = valid.sum(-1).clamp(min=1)
        return self.combine([graph.sum(-1) / tokens for graph in graphs])  # [batch]

    def _compare(self, ours: Tensor, theirs: Tensor, valid: Tensor, pair: int) -> Tensor:
        """One value per vertex, ``[graphs, nodes]``, of two graphs of features, ``[graphs, nodes, width]``."""
        sides = []
        for features in (ours, theirs):
            adjacency = nearest_neighbours(features, valid, neighbours=self.neighbours)
            sides.append(propagate(features, adjacency, valid, steps=self.steps))
        parts = []
        if self.projection is not None:
            apart = mean_squared_error(*self.projection.match(sides[0], sides[1], pair))
            parts.append(self.vertices * apart.masked_fill(~valid, 0.0))
        if self.edges:
            parts.append(self.edges * edge_difference(sides[0], sides[1], valid))
        return torch.stack(parts).sum(0)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, nodes={self.nodes}, neighbours={self.neighbours}, steps={self.steps}"
