"""How much each pair of layers counts where every student layer follows every teacher layer."""

from __future__ import annotations

import abc
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distil_nlp.errors import ModelError
from distil_nlp.functional.pooling import pool
from distil_nlp.functional.transport import layer_weights_by_cost, transport_plan
from distil_nlp.signals import Batch, Needs, Shape, Signals, valid_tokens

Reduce = Callable[[Tensor], Tensor]  # the mean of a tensor over processes
ATTENTION_WIDTH = 64


class LayerWeights(nn.Module, abc.ABC):
    """Weights of all pairs of layers, which sum to 1.

    What they are learned from is gathered over a whole optimizer step, all its micro-batches and processes, and has
    its effect from the next step on. So a step's loss is linear in its items, and gradient accumulation and data
    parallelism stay exact.

    Args:
        student: The student's measures.
        teacher: The teacher's.
    """

    costs: Tensor
    items: Tensor

    def __init__(self, student: Shape, teacher: Shape) -> None:
        super().__init__()
        self.shape = student.num_layers, teacher.num_layers
        self.student_needs, self.teacher_needs = Needs(), Needs()
        self.register_buffer("costs", torch.zeros(self.shape), persistent=False)
        self.register_buffer("items", torch.zeros(()), persistent=False)

    def look(self, student: Signals, teacher: Signals, batch: Batch) -> None:
        """Called before the values of each batch."""

    def forward(self, values: Tensor) -> Tensor:
        """Weighted sums over pairs: ``[pairs, items] -> [items]``."""
        if torch.is_grad_enabled():  # evaluation teaches nothing
            self.costs += values.detach().sum(1).view(self.shape)
            self.items += values.shape[1]
        return self.combine(values.view(*self.shape, -1))

    @abc.abstractmethod
    def combine(self, values: Tensor) -> Tensor:
        """``[student_layers, teacher_layers, items] -> [items]``."""

    @abc.abstractmethod
    def pair_weights(self) -> Tensor:
        """The present weights, ``[student_layers, teacher_layers]``."""

    @abc.abstractmethod
    def learn(self, costs: Tensor, reduce: Reduce) -> None:
        """Takes in a step's mean values, ``[student_layers, teacher_layers]``."""

    def end_step(self, reduce: Reduce) -> None:
        """Called after the backward passes of an optimizer step.

        Args:
            reduce: The mean of a tensor over processes.
        """
        total, items = reduce(self.costs), reduce(self.items)
        if items > 0:
            self.learn(total / items, reduce)
        self.forget()

    def forget(self) -> None:
        """Forgets what has been gathered of a step."""
        self.costs.zero_()
        self.items.zero_()


class EarthMover(LayerWeights):
    r"""The weight of a pair is what optimal transport moves from one layer to the other.

    .. math:: \sum_{i,j} f_{ij} \, d_{ij}, \quad f = \arg\min_f \sum_{i,j} f_{ij} \bar d_{ij}, \quad
        \sum_j f_{ij} = u_i, \; \sum_i f_{ij} = v_j

    :math:`\bar d` is the mean loss of a pair in the step before. Layer weights u and v are even at first and then
    favour layers that are cheap to move. Every layer of either side has to be moved, so none is lost to an easier one.
    The plan is a constant for the gradient.

    References:
        Li et al. (2020), arXiv:2010.06133 (BERT-EMD), who solve for each batch with that batch's costs, and share the
        layer weights between hidden states and attention maps; here each objective has its own. For the layer weights
        see :func:`~distil_nlp.functional.transport.layer_weights_by_cost`.
    """

    plan: Tensor
    student_weights: Tensor
    teacher_weights: Tensor

    def __init__(self, student: Shape, teacher: Shape) -> None:
        super().__init__(student, teacher)
        rows, columns = self.shape
        self.register_buffer("plan", torch.full(self.shape, 1 / (rows * columns)))
        self.register_buffer("student_weights", torch.full((rows,), 1 / rows))
        self.register_buffer("teacher_weights", torch.full((columns,), 1 / columns))

    def combine(self, values: Tensor) -> Tensor:
        return torch.einsum("st,sti->i", self.plan.to(values.dtype), values)

    def pair_weights(self) -> Tensor:
        return self.plan

    def learn(self, costs: Tensor, reduce: Reduce) -> None:
        self.plan.copy_(transport_plan(costs, self.student_weights, self.teacher_weights))
        self.student_weights.copy_(layer_weights_by_cost(costs, self.plan, dim=1))
        self.teacher_weights.copy_(layer_weights_by_cost(costs, self.plan, dim=0))


class LayerAttention(LayerWeights):
    r"""Each student layer attends to the teacher's layers, example by example.

    .. math:: \frac{1}{M} \sum_{i,j} \alpha_{ij} \, d_{ij}, \quad
        \alpha_{ij} = softmax_j \frac{\langle W_q s_i, W_k t_j \rangle}{\sqrt{a}}

    s and t are the mean hidden states of the example, standardised; :math:`W_q` and :math:`W_k` are learned and lead
    to a common width, a = 64. To the student :math:`\alpha` is a constant: it is not pulled towards being easy to
    attend to.

    The attention is trained by relative losses, :math:`d_{ij} / \bar d_j`, where :math:`\bar d_j` is the mean loss of
    all student layers on teacher layer j in the step before. A layer that is easy for all of them (a low one, with
    small values) gains nothing by it, so that they do not all end up there.

    Args:
        student: The student's measures.
        teacher: The teacher's.

    References:
        Passban et al. (2021), arXiv:2012.14022 (ALP-KD), who match a mixture of the teacher's representations, under
        a softmax of their inner products with the student's, with nothing to learn. Chen et al. (2021),
        arXiv:2012.03236 (SemCKD), who weight the losses, as is done here; there queries and keys come from the
        similarities of a layer's representations within the batch, and the losses themselves train the attention.
    """

    difficulty: Tensor
    seen: Tensor
    mean_weights: Tensor

    def __init__(self, student: Shape, teacher: Shape) -> None:
        super().__init__(student, teacher)
        self.student_needs = Needs(hidden_states=frozenset(range(1, student.num_layers + 1)))
        self.teacher_needs = Needs(hidden_states=frozenset(range(1, teacher.num_layers + 1)))
        self.query = nn.Linear(student.width, ATTENTION_WIDTH, bias=False)
        self.key = nn.Linear(teacher.width, ATTENTION_WIDTH, bias=False)
        rows, columns = self.shape
        self.register_buffer("difficulty", torch.zeros(columns))  # 0: not known yet
        self.register_buffer("mean_weights", torch.full(self.shape, 1 / (rows * columns)))
        self.register_buffer("seen", torch.zeros(self.shape), persistent=False)
        self._attention: Tensor | None = None
        self._valid: Tensor | None = None

    def look(self, student: Signals, teacher: Signals, batch: Batch) -> None:
        self._valid = valid_tokens(batch)
        queries = self._standardised(student, self._valid, self.shape[0]) @ self.query.weight.t()
        keys = self._standardised(teacher, self._valid, self.shape[1]) @ self.key.weight.t()
        scores = torch.einsum("bsa,bta->stb", queries, keys) / keys.shape[-1] ** 0.5
        self._attention = scores.softmax(1) / self.shape[0]  # [student_layers, teacher_layers, batch]

    def combine(self, values: Tensor) -> Tensor:
        weights = self._of_items(values.shape[-1]).to(values.dtype)
        if torch.is_grad_enabled():
            self.seen += weights.detach().sum(-1)
        combined = (weights.detach() * values).sum((0, 1))
        if not weights.requires_grad:
            return combined
        difficulty = self.difficulty.to(values.dtype).view(1, -1, 1)
        relative = torch.where(difficulty > 0, values.detach() / difficulty, 0.0)
        lesson = (weights * relative).sum((0, 1))
        return combined + (lesson - lesson.detach())

    def pair_weights(self) -> Tensor:
        return self.mean_weights

    def learn(self, costs: Tensor, reduce: Reduce) -> None:
        self.difficulty.copy_(costs.mean(0))
        seen = reduce(self.seen)
        self.mean_weights.copy_(seen / seen.sum())

    def forget(self) -> None:
        super().forget()
        self.seen.zero_()
        self._attention = self._valid = None  # a batch's graph, which cannot be copied

    def _standardised(self, signals: Signals, valid: Tensor, layers: int) -> Tensor:
        """``[batch, layers, width]``, without a gradient."""
        pooled = [pool(signals.hidden_states[i].detach(), valid, "mean") for i in range(1, layers + 1)]
        return F.layer_norm(torch.stack(pooled, dim=1).to(self.query.weight.dtype), pooled[0].shape[-1:])

    def _of_items(self, items: int) -> Tensor:
        """Attention of each item: of each example, each that is not padding alone, or each token."""
        attention, valid = self._attention, self._valid
        if attention is None or valid is None:
            raise ModelError(
                "The layer mapping 'attention' looks at hidden states.",
                "It was shown none.",
                "Call the objective itself.",
            )
        if items == len(valid):
            return attention
        present = valid.any(-1)
        if items == present.sum():
            return attention[..., present]
        if items == valid.sum():
            return attention.repeat_interleave(valid.sum(-1), dim=-1)
        raise ModelError(
            "The layer mapping 'attention' weighs examples and tokens.",
            f"The objective has {items} items in a batch of {len(valid)} examples and {int(valid.sum())} tokens.",
            "Use another mapping (emd, uniform, ...) for this objective.",
        )


LAYER_WEIGHTS: dict[str, type[EarthMover] | type[LayerAttention]] = {"attention": LayerAttention, "emd": EarthMover}
