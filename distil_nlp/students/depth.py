"""A shallower copy of a teacher."""

from __future__ import annotations

import copy
import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from distil_nlp.blocks import Blocks, find_stacks
from distil_nlp.errors import ModelError, listed
from distil_nlp.students.inherit import inherit, skeleton

logger = logging.getLogger(__name__)

# Fields of configurations that have an entry for each block (Longformer's, attention_window).
_BY_BLOCK = re.compile(r"^layers?_|_(types|layers|per_layer)$|^attention_window$")
_WITH_WEIGHTS = "has_relative_attention_bias"  # what T5 switches on in the first block comes with its weights
_FOR_OTHERS = "store_full_length_kv"  # Gemma 4, for blocks that share keys, if there are any


def shallower(teacher: PreTrainedModel, kept: Mapping[str, Sequence[int]]) -> PreTrainedModel:
    """Builds a model of the teacher's kind from some of its blocks, numbered from 1.

    Args:
        teacher: The teacher; it is not changed.
        kept: For each stack, as :func:`~distil_nlp.blocks.find_stacks` names them, the blocks to keep.

    Raises:
        ModelError: for blocks that do not fit into the places of others.
    """
    stacks, state = find_stacks(teacher), teacher.state_dict()
    config = copy.deepcopy(teacher.config)
    for field, layers in kept.items():
        _shorten(config, field, layers)
        state = _renumbered(state, stacks[field], layers)
    frame, original = skeleton(teacher, config), skeleton(teacher, copy.deepcopy(teacher.config))
    _check_reading(config)
    for field, layers in kept.items():
        state = _with_first(state, teacher.state_dict(), set(frame.state_dict()), stacks[field], layers[0])
        if not stacks[field].shared:
            idle = () if getattr(config.get_text_config(), "num_kv_shared_layers", 0) else (_FOR_OTHERS,)
            before, after = (model.get_submodule(stacks[field].path) for model in (original, frame))
            _check_places(before, after, layers, {_WITH_WEIGHTS, *idle})
    if getattr(config.get_text_config(), "hidden_size_per_layer_input", None):
        state = _with_channels(state, frame, teacher, kept)
    _warn_of_depth(frame)
    return inherit(teacher, config, state)


def _shorten(config: PretrainedConfig, field: str, kept: Sequence[int]) -> None:
    """Fewer blocks; per-block lists, of two stacks the encoder's (LED), keep the entries of the kept ones."""
    text: Any = config.get_text_config() if field == "num_hidden_layers" else config
    total = getattr(text, field)
    if "decoder" not in field:
        _check_kinds(getattr(text, "layer_types", None) or [], kept)
    for name, value in vars(text).items():
        if isinstance(value, list) and len(value) == total and _BY_BLOCK.search(name) and "decoder" not in field:
            setattr(text, name, [value[layer - 1] for layer in kept])
    if hasattr(text, "attention_layers") and hasattr(text, "attention_types"):  # GPT-Neo says it twice
        text.attention_types = [[text.attention_layers, 1]]
    if getattr(text, "num_kv_shared_layers", 0):  # the last so many (Gemma 4)
        text.num_kv_shared_layers = sum(layer > total - text.num_kv_shared_layers for layer in kept)
    if getattr(text, "scale_depth", None):  # MiniCPM 3 divides it by the root of the depth
        text.scale_depth *= (len(kept) / total) ** 0.5
    setattr(text, field, len(kept))
    if getattr(text, "is_heterogeneous", False):  # by the block's number, where it differs (Gemma 4)
        own = {int(at): values for at, values in text.to_dict()["per_layer_config"].items()}
        text.per_layer_config = {new: own[layer - 1] for new, layer in enumerate(kept) if layer - 1 in own}


def _check_kinds(kinds: Sequence[str], kept: Sequence[int]) -> None:
    """Refuses students without any attention but a linear one, of teachers that have another."""
    attend = {"attention", "hybrid", *(kind for kind in kinds if kind.endswith("_attention"))} - {"linear_attention"}
    places = [at for at, kind in enumerate(kinds, start=1) if kind in attend]
    if places and not set(places) & set(kept):
        raise ModelError(
            f"A student with the blocks {list(kept)} was asked for.",
            f"They are {' and '.join(sorted({kinds[layer - 1] for layer in kept}))}: none of them attends to all or "
            "the last tokens, as others do. The cache of such a student cannot tell how long a text is.",
            f"Keep one of {places} too.",
        )


def _check_reading(config: PretrainedConfig) -> None:
    """Refuses kinds of blocks that are others once the configuration is read again (the last one's of Gemma 4)."""
    had = getattr(config.get_text_config(), "layer_types", None)
    if had is None:
        return
    made = type(config).from_dict(config.to_dict()).get_text_config().layer_types
    if had != made:
        raise ModelError(
            f"A student with blocks of the kinds {had} was asked for.",
            f"A saved {config.model_type} with these is loaded as {made}.",
            "Keep the last block (layers=[..., -1]).",
        )


def _with_first(
    state: dict[str, Tensor], original: dict[str, Tensor], expected: set[str], blocks: Blocks, layer: int
) -> dict[str, Tensor]:
    """A first block has weights that others lack (T5: positions), or lacks some (ModernBERT).

    Raises:
        ModelError: where it has other weights instead: half a block of one kind and half of another is none.
    """
    first = f"{blocks.path}.0."
    dropped = {name for name in state if name.startswith(first) and name not in expected}
    needed = {name for name in expected - set(state) if name.startswith(first)}
    if dropped and needed:
        had, wanted = (listed(sorted(name[len(first) :] for name in names), 3) for names in (dropped, needed))
        raise ModelError(
            f"A student whose first block is the teacher's block {layer} was asked for.",
            f"Block {layer} is of another kind than a first block: it has {had}, and would need {wanted}.",
            "Keep block 1 (layers=[1, ...]), or begin with another block of its kind.",
        )
    kept = {name: value for name, value in state.items() if name not in dropped}
    return kept | {name: original[name] for name in needed & set(original)}


def _check_places(before: nn.Module, after: nn.Module, kept: Sequence[int], ignored: set[str]) -> None:
    """Refuses blocks that would compute with another number in their new place.

    GPT-2 can divide attention by a block's number, DiffLlama subtracts by it, and Gemma 4's last blocks read keys and
    values of certain others. Whole numbers only say where a block is.
    """
    for place, layer in enumerate(kept):
        modules = dict(before.get_submodule(str(layer - 1)).named_modules())
        for path, module in after.get_submodule(str(place)).named_modules():
            old = vars(modules.get(path, module))
            for name, value in vars(module).items():
                depends = isinstance(value, float | bool) and name not in ignored
                if depends and name in old and not math.isclose(old[name], value):
                    raise ModelError(
                        f"A student with the teacher's block {layer} in place {place + 1} was asked for.",
                        f"It would compute with {name}={value:.4g} there, and not with {old[name]:.4g}: in this model "
                        "that depends on the block's number.",
                        "Keep the first blocks (layers='first'), or a model whose blocks are alike in all places.",
                    )


def _with_channels(
    state: dict[str, Tensor], frame: PreTrainedModel, teacher: PreTrainedModel, kept: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """Keeps the channels of the kept blocks where one weight has some for each, side by side (Gemma 4)."""
    (layers,), width = kept.values(), frame.config.get_text_config().hidden_size_per_layer_input
    total = teacher.config.get_text_config().num_hidden_layers
    index = torch.arange(total * width).view(total, width)[[layer - 1 for layer in layers]].flatten()
    state = dict(state)
    for name, value in frame.state_dict().items():
        for axis, length in enumerate(value.shape):
            if name in state and state[name].shape[axis] == total * width and length == len(index):
                state[name] = state[name].index_select(axis, index.to(state[name].device))
    return state


def _warn_of_depth(frame: PreTrainedModel) -> None:
    """Some encoder-decoders (T5) have a cache of as many blocks as the encoder has."""
    config = frame.config
    if not getattr(config, "is_encoder_decoder", False) or not frame.can_generate():
        return
    depth = list(find_stacks(frame).values())[-1].num_layers
    if getattr(config.get_text_config(decoder=True), "num_hidden_layers", depth) < depth:
        logger.warning(
            "The student's decoder has %d blocks, more than its encoder: the cache of %s has no place for that. "
            "It can generate with use_cache=False only.",
            depth,
            type(frame).__name__,
        )


def _renumbered(state: dict[str, Tensor], blocks: Blocks, kept: Sequence[int]) -> dict[str, Tensor]:
    """The teacher's weights under the names that they have in the student."""
    if blocks.shared:
        _check_groups(blocks, kept)
        return state
    pattern = re.compile(rf"^{re.escape(blocks.path)}\.(\d+)\.")
    renumbered = {name: tensor for name, tensor in state.items() if not pattern.match(name)}
    for new, layer in enumerate(kept):
        old_prefix, new_prefix = f"{blocks.path}.{layer - 1}.", f"{blocks.path}.{new}."
        for name, tensor in state.items():
            if name.startswith(old_prefix):
                renumbered[new_prefix + name[len(old_prefix) :]] = tensor
    return renumbered


def _check_groups(blocks: Blocks, kept: Sequence[int]) -> None:
    """Refuses blocks that would run with the weights of another group: which those are depends on their number."""

    def groups(places: Sequence[int], total: int) -> list[int]:
        return [int(place / (total / len(blocks.modules))) for place in places]

    before, after = groups([layer - 1 for layer in kept], blocks.num_layers), groups(range(len(kept)), len(kept))
    if before != after:
        raise ModelError(
            f"A student with the blocks {list(kept)} was asked for.",
            f"The {blocks.num_layers} blocks share weights in {len(blocks.modules)} groups: those of the blocks asked "
            f"for are of the groups {[group + 1 for group in before]}, and would run as {[g + 1 for g in after]}.",
            "Keep as many blocks of each group.",
        )
