"""A shallower copy of a teacher."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from distil_nlp.blocks import Blocks, find_stacks
from distil_nlp.errors import ModelError
from distil_nlp.students.inherit import inherit, skeleton

# Fields of configurations that have an entry for each block (Longformer's, attention_window).
_BY_BLOCK = re.compile(r"^layers?_|_(types|layers|per_layer)$|^attention_window$")


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
    expected, original = set(skeleton(teacher, config).state_dict()), teacher.state_dict()
    for field in kept:  # a first block has weights that others lack (T5: positions), or lacks some (ModernBERT)
        first = f"{stacks[field].path}.0."
        state = {name: value for name, value in state.items() if name in expected or not name.startswith(first)}
        needed = {name for name in expected - set(state) if name.startswith(first)}
        state |= {name: original[name] for name in needed & set(original)}
    return inherit(teacher, config, state)


def _shorten(config: PretrainedConfig, field: str, kept: Sequence[int]) -> None:
    """Fewer blocks; per-block lists, of two stacks the encoder's (LED), keep the entries of the kept ones."""
    text = config.get_text_config() if field == "num_hidden_layers" else config
    total = getattr(text, field)
    for name, value in vars(text).items():
        if isinstance(value, list) and len(value) == total and _BY_BLOCK.search(name) and "decoder" not in field:
            setattr(text, name, [value[layer - 1] for layer in kept])
    if hasattr(text, "attention_layers") and hasattr(text, "attention_types"):  # GPT-Neo says it twice
        text.attention_types = [[text.attention_layers, 1]]
    setattr(text, field, len(kept))


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
