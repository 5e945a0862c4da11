"""Weights of the terms that adapt to how training goes."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from distil_nlp.errors import ModelError, RecipeError
from distil_nlp.objectives import Objective
from distil_nlp.registry import Registry
from distil_nlp.signals import Needs, Shape, Signals

WEIGHTINGS: Registry[type[Weighting]] = Registry("weighting")


class Weighting(nn.Module, abc.ABC):
    """Multiplies each term by a balance of its own, beside its weight, which keeps its meaning.

    Balances start at 1, change between optimizer steps only, and are the same in all processes; so gradient
    accumulation and data parallelism stay exact. They are logged (``logits_kl/balance``) and are in the checkpoint.
    """

    own_term: ClassVar[str | None] = None  # what it adds to the loss itself, by the name that it is logged under
    by_term: ClassVar[bool] = False  # whether it looks at the gradient of each term
    learning_rate: float | None = None  # of its parameters, if it has some

    def __init__(self) -> None:
        super().__init__()
        self.needs = Needs()  # of the student, while it is trained
        self._objectives: tuple[Objective, ...] = ()

    def bind(self, objectives: Sequence[Objective], student: Shape) -> None:
        """Fits it to the terms; called once, before training."""
        self._objectives = tuple(objectives)

    @abc.abstractmethod
    def balances(self) -> Tensor:
        """The present balance of each term, ``[objectives]``, without a gradient."""

    def apply_balances(self) -> None:
        """Hands the present balances to the objectives; called before the terms are computed."""
        for objective, balance in zip(self._objectives, self.balances().tolist(), strict=True):
            objective.balance = balance

    @abc.abstractmethod
    def forward(self, terms: list[Tensor], student: Signals, share: float) -> Tensor | None:
        """Looks at a micro-batch of training, and gives its own term.

        Args:
            terms: The terms as they enter the loss.
            student: The student's signals.
            share: Of this micro-batch in the optimizer step; they sum to 1.

        Returns:
            What is to be added to the loss, if anything.
        """

    def end_step(self, reduce: Callable[[Tensor], Tensor]) -> None:
        """Called after the backward passes of an optimizer step.

        Args:
            reduce: The mean of a tensor over processes.
        """

    def forget(self) -> None:
        """Forgets what it has gathered of a step; called before training."""

    def add_parameters(self, optimizer: torch.optim.Optimizer, scheduler: Any = None) -> None:
        """Adds its parameters to the student's optimizer, as a group with a learning rate of its own.

        Raises:
            ModelError: if the optimizer has a learning rate scheduler already, which knows of no further group.
        """
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        new = [parameter for parameter in self.parameters() if id(parameter) not in held]
        if new and scheduler is not None:
            raise ModelError(
                f"{type(self).__name__} learns its balances along with the student, in the optimizer's last group.",
                "The optimizer given has a learning rate scheduler, made for the groups before it.",
                "Give optimizers=(optimizer, None), and name the schedule by lr_scheduler_type.",
            )
        if new:
            optimizer.add_param_group({"params": new, "lr": self.learning_rate, "weight_decay": 0.0})

    def logs(self) -> dict[str, float]:
        """What is to be logged."""
        values = self.balances().tolist()
        return {f"{o.name}/balance": value for o, value in zip(self._objectives, values, strict=True)}

    def _weights(self) -> list[float]:
        return [objective.weight for objective in self._objectives]


@WEIGHTINGS.register("uncertainty")
class Uncertainty(Weighting):
    r"""Balances that are learned along with the student, as the certainty of each term.

    .. math:: \sum_o w_o \left( e^{-s_o} L_o + \frac{s_o}{2} \right)

    :math:`s_o` is the logarithm of a term's variance; its balance is :math:`e^{-s_o}`, which tends to
    :math:`1 / (2 L_o)`. So terms of any size come to count alike, but for their weights w. The second part is a term
    named ``uncertainty``, and may be negative.

    Use it where terms differ in size by an unknown factor. Terms must not be negative, and one that falls to 0 takes
    over: its balance grows without bound.

    Args:
        learning_rate: Of s, as the optimizer in use understands it. The student's own is too small to move it. s is
            neither decayed nor clipped.

    References:
        Kendall, Gal, Cipolla (2018), arXiv:1705.07115, section 3.2: the form for classification for every term. (For
        regression they halve the first part, which is a constant shift of s.) The weights w are an addition.
    """

    own_term = "uncertainty"

    def __init__(self, *, learning_rate: float = 0.01) -> None:
        super().__init__()
        if learning_rate <= 0:
            raise RecipeError(
                f"weighting.learning_rate is {learning_rate}.", "It must be above 0.", "0.001 to 0.1 is usual."
            )
        self.learning_rate = learning_rate
        self.log_variances: nn.Parameter | None = None

    def bind(self, objectives: Sequence[Objective], student: Shape) -> None:
        super().bind(objectives, student)
        if self.log_variances is None:
            self.log_variances = nn.Parameter(torch.zeros(len(objectives)))

    def balances(self) -> Tensor:
        return (-self._log_variances().detach()).exp()

    def forward(self, terms: list[Tensor], student: Signals, share: float) -> Tensor:
        log_variances = self._log_variances()
        balances = (-log_variances).exp()
        values = torch.stack([term.detach().float() for term in terms])
        # The terms have their balances as constants: this adds none of their value, but their slope in s.
        slope = ((balances / balances.detach() - 1) * values).sum()
        weights = torch.tensor(self._weights(), device=values.device)
        return slope + share * (weights * log_variances).sum() / 2

    def _log_variances(self) -> nn.Parameter:
        if self.log_variances is None:
            raise ModelError("A weighting fits the terms of one loss.", "It knows none yet.", "Call bind first.")
        return self.log_variances


@WEIGHTINGS.register("grad_norm")
class GradNorm(Weighting):
    r"""Balances under which all terms pull at the student about equally, and those that lag behind pull harder.

    Every few steps, with :math:`G_o` the norm of the gradient of a term under its balance, but without its weight,

    .. math:: \log b_o \leftarrow \log b_o - \eta \left( \log G_o - \log \bar G r_o^\alpha \right), \quad
        r_o = \frac{L_o / L_o(0)}{mean_p \; L_p / L_p(0)}

    and balances are then scaled to a mean of 1. :math:`\bar G` is the mean of the G and L(0) a term's first value.

    Gradients are taken with respect to the student's highest hidden state that all terms depend upon: the last one if
    all read predictions, a lower one if a term reads a lower layer. So they cover the same part of the student, items
    of different micro-batches and processes add up exactly, and a measurement costs a backward pass down to that
    layer for each term.

    Use it where terms differ in size by an unknown factor, and one should not finish long before another.

    Args:
        alpha: How much harder a term pulls that lags behind, 0 or above; 0 evens out the norms alone.
        every: Optimizer steps from one measurement to the next.
        rate: :math:`\eta`, above 0 and at most 1; 1 goes all the way at once.

    References:
        Chen et al. (2018), arXiv:1711.02257, section 3. There the gradient is that of a layer's weights, and balances
        take a gradient step on :math:`\sum_o | G_o - \bar G r_o^\alpha |`; the step in logarithms goes the same way,
        but does not depend on the size of gradients.
    """

    by_term = True
    log_balances: Tensor
    first_values: Tensor
    steps: Tensor
    squares: Tensor
    values: Tensor

    def __init__(self, *, alpha: float = 1.5, every: int = 10, rate: float = 0.2) -> None:
        super().__init__()
        for name, value, good in (
            ("alpha", alpha, alpha >= 0),
            ("every", every, every >= 1),
            ("rate", rate, 0 < rate <= 1),
        ):
            if not good:
                raise RecipeError(
                    f"weighting.{name} is {value}.", "It is out of range.", "alpha >= 0, every >= 1, 0 < rate <= 1."
                )
        self.alpha, self.every, self.rate = alpha, every, rate
        self._shared = 0  # number of the hidden state that all terms depend upon
        self._measuring: bool | None = None  # whether this step is one of every few; None before it is looked up

    def bind(self, objectives: Sequence[Objective], student: Shape) -> None:
        super().bind(objectives, student)
        self._shared = min(shared_hidden_state(o.student_needs, student.num_layers) for o in objectives)
        self.needs = Needs(hidden_states=frozenset({self._shared}))
        zeros = torch.zeros(len(objectives))
        self.register_buffer("log_balances", zeros.clone())
        self.register_buffer("first_values", zeros.clone())  # 0: not known yet
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("squares", zeros.clone(), persistent=False)
        self.register_buffer("values", zeros.clone(), persistent=False)

    def balances(self) -> Tensor:
        return self.log_balances.exp()

    def forward(self, terms: list[Tensor], student: Signals, share: float) -> None:
        if not torch.is_grad_enabled() or not self._measures():
            return
        state = student.hidden_states[self._shared]
        if not state.requires_grad:
            raise ModelError(
                "grad_norm compares the gradients of the terms.",
                f"Hidden state {self._shared} of the student has none: what is below it is frozen.",
                "Use weighting: {method: uncertainty}, or train the whole student.",
            )
        for number, term in enumerate(terms):
            slope = torch.autograd.grad(term, state, retain_graph=True, allow_unused=True)[0]
            if slope is not None:
                self.squares[number] += slope.float().square().sum()
            self.values[number] += term.detach()

    def end_step(self, reduce: Callable[[Tensor], Tensor]) -> None:
        if self._measures():
            self._update(reduce(self.squares).sqrt(), reduce(self.values))
        self.forget()
        self.steps += 1

    def forget(self) -> None:
        self.squares.zero_()
        self.values.zero_()
        self._measuring = None

    def _measures(self) -> bool:
        if self._measuring is None:  # once a step: it waits for the device
            self._measuring = int(self.steps) % self.every == 0
        return self._measuring

    def _update(self, norms: Tensor, values: Tensor) -> None:
        """One step of the balances, from norms and values of the terms as they enter the loss."""
        weights = torch.tensor(self._weights(), device=norms.device)
        losses = values / (weights * self.balances()).clamp(min=1e-30)
        self.first_values.copy_(torch.where(self.first_values == 0, losses, self.first_values))
        active = (weights > 0) & (norms > 0) & (losses > 0) & (self.first_values > 0)
        if not active.any():
            return
        pull = norms[active] / weights[active]
        progress = losses[active] / self.first_values[active]
        target = pull.mean() * (progress / progress.mean()) ** self.alpha
        stepped = self.log_balances[active] - self.rate * (pull.log() - target.log())
        self.log_balances[active] = stepped - stepped.exp().mean().log()


def shared_hidden_state(needs: Needs, num_layers: int) -> int:
    """The highest hidden state that everything in ``needs`` depends upon.

    A block's attention depends on the hidden state below it.
    """
    return min([num_layers, *needs.hidden_states, *(block - 1 for block in needs.attentions)])
