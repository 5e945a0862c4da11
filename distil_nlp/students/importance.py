"""How much each hidden channel, head and neuron of a model matters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distil_nlp.errors import ModelError
from distil_nlp.signals import Batch, valid_tokens
from distil_nlp.students.axes import Axes, Units
from distil_nlp.students.heads import input_axis

Importance = dict[str, Tensor]


def by_weights(state: Mapping[str, Tensor], axes: Axes) -> Importance:
    r"""Importance by the size of weights: a unit's share of the squared norm, summed over its group's weights.

    :math:`I_u = \sum_W \lVert W_u \rVert^2 / \lVert W \rVert^2`, so that a large matrix counts as much as a small one.

    Returns:
        For each group ``[units]``.
    """
    importance: Importance = {}
    for (name, axis), units in axes.items():
        squares = state[name].float().cpu().square().transpose(0, axis).reshape(units.channels.numel(), -1).sum(dim=1)
        share = squares[units.channels].sum(dim=1) / squares.sum().clamp_min(torch.finfo(torch.float32).tiny)
        importance[units.group] = importance.get(units.group, torch.zeros(())) + share
    return importance


def by_activations(model: PreTrainedModel, axes: Axes, batches: Iterable[Batch]) -> Importance:
    r"""Importance by the size of activations on real batches; neither labels nor gradients are needed.

    The activation :math:`a` of a neuron or a head is the norm of what it adds to the hidden state, :math:`\lVert W_u
    x_u \rVert` with its columns of the layer that reads it; that of a hidden channel is the output of a normalization
    layer. They are averaged over the tokens of a text, then over texts by root of squares, and summed over
    normalization layers: :math:`I_u = \sum_l \sqrt{\sum_n (\frac1{T_n} \sum_t |a^l_{ntu}|)^2}`

    Returns:
        For each group ``[units]``.

    Raises:
        ModelError: if there is no batch, or a group's activations are nowhere to be seen.

    References:
        Muralidharan et al. (2024), arXiv:2407.14679: importance of heads, neurons and embedding channels from
        activations, in forward passes over a small calibration set. Padding is left out here, heads that share
        keys and values count together, and the weights that read a unit count too, as they do for single weights in
        Sun et al. (2023), arXiv:2306.11695.
    """
    totals: dict[tuple[str, str], Tensor] = {}
    valid: list[Tensor] = []

    def add(name: str, units: Units, activations: Tensor) -> None:
        batch, tokens = valid[0].shape
        if model.config.model_type == "xlnet":
            activations = activations.transpose(0, 1)  # [tokens, batch, width]
        if activations.dim() == 3 and len(activations) == batch:
            activations = activations[:, :tokens]  # Longformer pads to whole windows
        activations = activations.reshape(batch, tokens, -1)  # OPT gives its tokens one after another
        sizes = _sizes(model.get_submodule(name), units, activations)  # [batch, tokens, units]
        mask = valid[0].to(sizes)
        means = torch.einsum("btu,bt->bu", sizes, mask) / mask.sum(dim=1, keepdim=True).clamp_min(1)
        key = (units.group, name)
        totals[key] = totals.get(key, torch.zeros(())) + means.square().sum(dim=0).cpu()

    core, training, device = model.base_model, model.training, model.device
    known = inspect.signature(core.forward).parameters
    with ExitStack() as stack, torch.no_grad():
        for name, units in _readers(model, axes).items():
            stack.callback(_listen(model, name, units, add).remove)
        stack.callback(model.train, training)
        model.eval()
        for batch in batches:
            placed = {key: value.to(device) for key, value in batch.items() if key in known}
            valid[:] = [valid_tokens(placed)]
            core(**placed)
    if not valid:
        raise ModelError(
            "What a narrower student keeps is chosen by activations on real batches.",
            "There is no batch.",
            "Give some, such as the first ones of the training data, or none at all (batches=None).",
        )
    importance: Importance = {}
    for (group, _), total in totals.items():
        importance[group] = importance.get(group, torch.zeros(())) + total.sqrt()
    return importance


def _sizes(module: nn.Module, units: Units, activations: Tensor) -> Tensor:
    parts = activations.detach().float()[
        ..., units.channels.to(activations.device)
    ]  # [batch, tokens, units, positions]
    if units.kind == "hidden channels":
        return parts.squeeze(-1).abs()
    weight: Any = module.weight
    columns = weight.detach().float().movedim(input_axis(module) or 0, 0)[units.channels]  # [units, positions, width]
    squares = torch.einsum("btup,upq,btuq->btu", parts, columns @ columns.mT, parts)
    return squares.clamp_min(0).sqrt()


def _readers(model: PreTrainedModel, axes: Axes) -> dict[str, Units]:
    """The modules at which each group's activations are seen, by name."""
    readers = {}
    for (name, axis), units in axes.items():
        path, _, kind = name.rpartition(".")
        module = model.get_submodule(path)
        weight = getattr(module, "weight", None)
        norm = units.kind == "hidden channels" and weight is not None and weight.dim() == 1
        if kind == "weight" and (norm or (units.kind != "hidden channels" and axis == input_axis(module))):
            readers[path] = units
    unseen = {units.group for units in axes.values()} - {units.group for units in readers.values()}
    if unseen:
        raise ModelError(
            "What a narrower student keeps is chosen by activations on real batches.",
            f"No linear or normalization layer of {type(model).__name__} shows those of: {sorted(unseen)}.",
            "Give no batches: the choice is then made by the size of weights.",
        )
    return readers


def _listen(model: PreTrainedModel, name: str, units: Units, add: Callable[[str, Units, Tensor], None]) -> Any:
    module = model.get_submodule(name)
    if units.kind == "hidden channels":
        return module.register_forward_hook(lambda module, args, output: add(name, units, output))
    return module.register_forward_pre_hook(lambda module, args: add(name, units, args[0]))
