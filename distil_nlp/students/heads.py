"""Where a model's attention heads are, found by looking at its attention once."""

from __future__ import annotations

from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.pytorch_utils import Conv1D

from distil_nlp.errors import ModelError

_ATTENTION_NAME = "distil_head_numbers"
Heads = dict[tuple[str, int], tuple[str, Tensor]]


def input_axis(module: nn.Module) -> int | None:
    """Which axis of a linear layer's weight meets its input; None for other modules."""
    if isinstance(module, Conv1D):
        return 0
    return 1 if isinstance(module, nn.Linear) else None


class _Observer:
    """Follows which channels of which linear layer become which head, and which layer reads the heads' outputs.

    Every linear layer's output is cut off from what came before, so that what a query depends on is its own
    projection; and instead of attending, each head gives its number, which the next linear layer finds in its input.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.heads = model, Heads()
        self.outputs: list[tuple[str, Tensor]] = []
        self.units: dict[str, Tensor] | None = None
        self.shared, self.num_heads = 1, 0

    def linear_starts(self, name: str, module: nn.Module, inputs: Tensor) -> None:
        if self.units is None:
            return
        numbers = inputs.detach()[..., 0, :].flatten().float().cpu()  # of the first token
        channels = [(numbers == head).nonzero().flatten() for head in range(self.num_heads)]
        if len({len(each) for each in channels}) > 1 or sum(map(len, channels)) != len(numbers):
            raise _unknown(self.model, f"'{name}' does not read the heads as they are")
        merged = torch.stack(channels).view(self.num_heads // self.shared, -1)
        self.heads[f"{name}.weight", input_axis(module) or 0] = (name, merged)
        for projection, units in self.units.items():
            outputs = 1 - (input_axis(self.model.get_submodule(projection)) or 0)
            self.heads[f"{projection}.weight", outputs] = (name, units)
            self.heads[f"{projection}.bias", 0] = (name, units)
        self.units, self.outputs = None, []

    def linear_ends(self, name: str, output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_()
        self.outputs.append((name, leaf))
        return leaf

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, self.num_heads, tokens, _ = query.shape
        self.shared = self.num_heads // key.shape[1]
        found: dict[str, list[list[Tensor]]] = {}
        for heads, each in ((self.shared, query), (1, key), (1, value)):
            for unit in range(key.shape[1]):
                for name, channels in self._sources(each[:, unit * heads : (unit + 1) * heads]):
                    found.setdefault(name, [[] for _ in range(key.shape[1])])[unit].append(channels)
        self.units = {name: self._stacked(name, units) for name, units in found.items()}
        numbers = torch.arange(self.num_heads, device=value.device, dtype=value.dtype).view(1, 1, -1, 1)
        return numbers.expand(batch, tokens, -1, value.shape[-1]).contiguous()

    def _sources(self, part: Tensor) -> list[tuple[str, Tensor]]:
        """The linear layers that a part of the queries, keys or values comes from, and their channels."""
        weights = torch.linspace(1, 2, part.numel(), device=part.device, dtype=part.dtype).view_as(part)
        leaves = [leaf for _, leaf in self.outputs]
        gradients = torch.autograd.grad(part, leaves, weights, retain_graph=True, allow_unused=True)
        return [
            (name, gradient.flatten(0, -2).any(dim=0).nonzero().flatten().cpu())
            for (name, _), gradient in zip(self.outputs, gradients, strict=True)
            if gradient is not None
        ]

    def _stacked(self, name: str, units: list[list[Tensor]]) -> Tensor:
        joined = [torch.cat(each).sort().values for each in units]
        features = self.outputs[[other for other, _ in self.outputs].index(name)][1].shape[-1]
        if len({len(each) for each in joined}) > 1 or torch.cat(joined).sort().values.tolist() != list(range(features)):
            raise _unknown(self.model, f"'{name}' does not give each head channels of its own")
        return torch.stack(joined)


_observer: ContextVar[_Observer | None] = ContextVar("observer", default=None)


def _numbering_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    observer = _observer.get()
    if observer is None:
        raise RuntimeError("this attention only looks for heads")
    return observer.attend(query, key, value), None


AttentionInterface.register(_ATTENTION_NAME, _numbering_attention)
AttentionMaskInterface.register(_ATTENTION_NAME, sdpa_mask)


def find_heads(model: PreTrainedModel) -> Heads:
    """Finds the axes along which attention heads lie, whatever the projections are called and however they are fused.

    The model runs once on a few tokens, with an attention that numbers the heads instead of attending.

    Returns:
        For each weight and axis the name of its attention and the channels of each head, ``[heads, channels]``; query
        heads that share keys and values count as one.

    Raises:
        ModelError: if the model does not use ``transformers.AttentionInterface``, or projects in an unknown way.
    """
    if not model._can_set_attn_implementation():
        raise _unknown(model, "its attention does not go through transformers.AttentionInterface")
    observer, attention, training = _Observer(model), model.config._attn_implementation, model.training
    ids = torch.arange(3, device=model.device).unsqueeze(0)
    model.set_attn_implementation(_ATTENTION_NAME)
    token = _observer.set(observer)
    try:
        with ExitStack() as stack, torch.enable_grad():
            for name, module in model.named_modules():
                if input_axis(module) is not None:
                    stack.callback(module.register_forward_pre_hook(_starting(observer, name)).remove)
                    stack.callback(module.register_forward_hook(_ending(observer, name)).remove)
            model.eval().base_model(input_ids=ids)
    finally:
        _observer.reset(token)
        model.set_attn_implementation(attention)
        model.train(training)
    return observer.heads


def _starting(observer: _Observer, name: str) -> Any:
    return lambda module, args: observer.linear_starts(name, module, args[0])


def _ending(observer: _Observer, name: str) -> Any:
    return lambda module, args, output: observer.linear_ends(name, output)


def _unknown(model: PreTrainedModel, why: str) -> ModelError:
    return ModelError(
        f"The attention heads of {type(model).__name__} are needed, to make its student narrower.",
        f"They cannot be found: {why}.",
        "Change intermediate_size only, or ask for fewer layers (num_layers).",
    )
