"""Which axis of which weight stands for hidden channels, attention heads or intermediate neurons."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distil_nlp.blocks import find_blocks
from distil_nlp.errors import ModelError
from distil_nlp.students.heads import find_heads
from distil_nlp.students.inherit import changed_axes, inherit, placed_like
from distil_nlp.students.sizes import Sizes


@dataclass(frozen=True)
class Units:
    """The parts of one axis, each of which is kept or removed as a whole.

    Attributes:
        kind: What a unit is. A unit of heads is a key/value head with all query heads that share it.
        group: Axes of one group keep the same units.
        channels: The positions of each unit along the axis, ``[units, positions]``.
    """

    kind: Literal["hidden channels", "heads", "neurons"]
    group: str
    channels: Tensor


Axes = dict[tuple[str, int], Units]


def find_axes(model: PreTrainedModel, new: Sizes) -> Axes:
    """Finds the axes that have to shrink, by weight and axis, for any architecture.

    Nothing is known about names: a model without weights is built under the new configuration, one size changed at
    a time, and the axes whose length follows are those of that size. Where hidden size and heads can only change
    together (BERT), the model's own attention tells which axes are heads.

    Raises:
        ModelError: if an axis follows in a way that cannot be cut.
    """
    old = Sizes.of(model.config)
    axes: Axes = {}
    if new.intermediate != old.intermediate:
        changed = changed_axes(model, old.replace(intermediate=new.intermediate).configured(model.config))
        axes |= {key: _neurons(model, key, length, old.intermediate) for key, length in changed.items()}
    if (new.hidden, new.heads) != (old.hidden, old.heads):
        changed = changed_axes(model, new.replace(intermediate=old.intermediate).configured(model.config))
        heads = find_heads(model)
        for key, length in changed.items():
            if key in heads:
                group, channels = heads[key]
                axes[key] = Units("heads", group, channels)
            elif length == old.hidden:
                axes[key] = Units("hidden channels", "", torch.arange(length).unsqueeze(1))
            else:
                raise _unknown(model, key)
    return axes


def cut(state: Mapping[str, Tensor], axes: Axes, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with the kept units only, whose numbers ``kept`` gives for each group, in the order of ``kept``."""
    state = dict(state)
    for (name, axis), units in axes.items():
        chosen = kept[units.group]
        places = units.channels[chosen.sort().values].flatten()  # where units may stand: fused parts stay side by side
        index = units.channels[chosen].flatten()[places.argsort()]
        state[name] = state[name].index_select(axis, index.to(state[name].device))
    return state


def check_axes(model: PreTrainedModel, axes: Axes) -> None:
    """Checks that the units are what they are taken for: a model whose units change places must stay the same.

    Raises:
        ModelError: if the outputs change, so that some weight of the units has not been found.
    """
    generator = torch.Generator().manual_seed(0)
    orders = {
        units.group: torch.randperm(len(units.channels), generator=generator)
        for units in {each.group: each for each in axes.values()}.values()
    }
    shuffled = placed_like(inherit(model, copy.deepcopy(model.config), cut(model.state_dict(), axes, orders)), model)
    ids = torch.arange(8, device=model.device).unsqueeze(0) % model.config.get_text_config().vocab_size
    training = model.training
    with torch.no_grad():
        pairs = zip(_outputs(model.eval(), ids), _outputs(shuffled.eval(), ids), strict=True)
        tolerance = 1e-3 if model.dtype == torch.float32 else 5e-2
        same = all((one - other).abs().max() <= tolerance * one.abs().max() for one, other in pairs)
    model.train(training)
    if not same:
        kinds = " and ".join(sorted({units.kind for units in axes.values()}))
        raise ModelError(
            f"A narrower student of {type(model).__name__} was asked for.",
            f"Its {kinds} could not be told apart: when they change places, the outputs change.",
            "Ask for fewer layers instead (num_layers), or for another size only.",
        )


def _outputs(model: PreTrainedModel, ids: Tensor) -> list[Tensor]:
    values = [value.float() for value in model(input_ids=ids).to_tuple() if isinstance(value, Tensor)]
    width = model.config.get_text_config().hidden_size
    return [value.sort(dim=-1).values if value.shape[-1] == width else value for value in values]  # without a head


def _neurons(model: PreTrainedModel, key: tuple[str, int], length: int, size: int) -> Units:
    block = re.match(rf"{re.escape(find_blocks(model).path)}\.\d+", key[0])
    if block is None or length % size:
        raise _unknown(model, key)
    return Units("neurons", block[0], torch.arange(length).view(-1, size).T)  # gate and up side by side


def _unknown(model: PreTrainedModel, key: tuple[str, int]) -> ModelError:
    return ModelError(
        f"A narrower student of {type(model).__name__} was asked for.",
        f"Axis {key[1]} of '{key[0]}' follows the size in a way that is not known.",
        "Ask for fewer layers instead (num_layers), or for another size only.",
    )
