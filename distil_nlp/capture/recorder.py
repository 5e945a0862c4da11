"""What the hooks of one forward pass keep."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from distil_nlp.errors import ModelError
from distil_nlp.signals import Needs, SelfAttention


class Enough(Exception):  # noqa: N818 - control flow, not an error
    """Raised inside a forward pass when everything needed has been seen."""


class Recorder:
    """Keeps what the hooks of one forward pass see; blocks are told apart by the order in which they run."""

    def __init__(self, needs: Needs, num_layers: int, items: Tensor | None = None) -> None:
        self.needs, self.num_layers, self.items = needs, num_layers, items
        self.block, self.differentiated = 0, torch.is_grad_enabled()
        self.hidden_states: dict[int, Tensor] = {}
        self.attentions: dict[int, SelfAttention] = {}
        self.head_input: Tensor | None = None

    def block_starts(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.block += 1
        if self.block == 1 and 0 in self.needs.hidden_states:
            self.hidden_states[0] = self._with_gradient(args[0] if args else kwargs["hidden_states"])
            self._stop_when_done(0)

    def block_ends(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self.block < self.num_layers and self.block in self.needs.hidden_states:
            self.hidden_states[self.block] = self._with_gradient(output if isinstance(output, Tensor) else output[0])
        if self.block < self.num_layers:
            self._stop_when_done(self.block)

    def backbone_ends(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Hands the items alone on to the vocabulary head, as one row."""
        states: Tensor = output[0]
        if self.num_layers in self.needs.hidden_states:
            self.hidden_states[self.num_layers] = states
        self._stop_when_done(self.num_layers)
        if self.items is None:
            return output
        states = states[self.items].unsqueeze(0)  # [1, items, width]
        if isinstance(output, tuple):
            return (states, *output[1:])
        return type(output)(**{**output, "last_hidden_state": states})

    def attention_seen(self, attention: SelfAttention) -> None:
        if self.block in self.needs.attentions:
            self.attentions.setdefault(self.block, self._with_gradient(attention))
            if self.block not in self.needs.hidden_states:
                self._stop_when_done(self.block)

    def head_starts(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Leaves the vocabulary head one position, lest it compute what nobody reads."""
        self.head_input = args[0][0]
        place = args[0].device.type
        self.head_dtype = torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else None
        return (args[0][:, :1],)

    def _with_gradient(self, seen: Any) -> Any:
        if self.differentiated and not torch.is_grad_enabled():
            raise ModelError(
                "Objectives look inside the model, and need the gradient of what they see there.",
                "Its blocks run without one, as reentrant gradient checkpoints do.",
                "Enable checkpointing with gradient_checkpointing_kwargs={'use_reentrant': False}.",
            )
        return seen

    def _stop_when_done(self, block: int) -> None:
        if not self.needs.head and block >= self.needs.deepest:
            raise Enough


current: ContextVar[Recorder | None] = ContextVar("recorder", default=None)
