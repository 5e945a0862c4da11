"""A shallower copy of a teacher."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distil_nlp.blocks import Blocks, find_blocks
from distil_nlp.errors import ModelError
from distil_nlp.mapping import uniform_layers


def build_student(
    teacher: PreTrainedModel, *, num_layers: int | None = None, layers: Sequence[int] | None = None
) -> PreTrainedModel:
    """Builds a student of the teacher's kind from some of its blocks.

    Embeddings, the kept blocks and the head are copied. The student is an ordinary model of the teacher's class, in
    float32, with a configuration of its own: ``from_pretrained`` loads what ``save_pretrained`` wrote.

    Args:
        teacher: Any model that keeps its blocks in one list; it is not changed.
        num_layers: How many blocks to keep, at even distances, the last among them (2, 4, 6 for 3 of 6).
        layers: Which blocks to keep instead, numbered from 1, or from the end as -1.

    Raises:
        ModelError: if neither or both are given, or for blocks that do not exist.

    References:
        Sanh et al. (2019), arXiv:1910.01108, section 3: initialisation from the teacher's layers.
    """
    blocks = find_blocks(teacher)
    kept = _kept_layers(blocks.num_layers, num_layers, layers)
    config = _shallower(teacher.config, kept)
    with torch.random.fork_rng(devices=[]):  # building must not move the caller's random state
        student: Any = type(teacher)(config)
    state = _renumbered(teacher.state_dict(), blocks, kept)
    missing, unexpected = student.load_state_dict(state, strict=False)
    tied = set(student.all_tied_weights_keys) if hasattr(student, "all_tied_weights_keys") else set()
    own = {name for name in unexpected if not name.startswith(f"{blocks.path}.0.")}
    if set(missing) - tied or own:
        raise ModelError(
            f"A {len(kept)}-block student of {type(teacher).__name__} takes over the teacher's weights.",
            f"Not found in the teacher: {sorted(set(missing) - tied)}; without a place: {sorted(own)}.",
            "Keep other layers, or build the student from a checkpoint of its own.",
        )
    if teacher.can_generate():
        student.generation_config = copy.deepcopy(teacher.generation_config)
    built: PreTrainedModel = student.to(torch.float32).train(teacher.training)
    return built


def _kept_layers(total: int, num_layers: int | None, layers: Sequence[int] | None) -> list[int]:
    if (num_layers is None) == (layers is None):
        raise ModelError(
            "A student keeps some of its teacher's blocks.",
            f"num_layers={num_layers}, layers={layers}.",
            "Give exactly one of num_layers and layers.",
        )
    if layers is None and num_layers is not None:
        if not 1 <= num_layers <= total:
            raise ModelError(
                f"A student of {num_layers} blocks was asked for.",
                f"The teacher has {total}.",
                f"Ask for 1 to {total}.",
            )
        return uniform_layers(num_layers, total)
    kept = [layer if layer > 0 else total + 1 + layer for layer in layers or ()]
    if not kept or any(layer == 0 for layer in layers or ()) or not all(1 <= layer <= total for layer in kept):
        raise ModelError(
            f"The student is to keep the teacher's blocks {list(layers or ())}.",
            f"The teacher has {total} blocks, numbered 1 to {total} (or -1 to -{total} from the end).",
            "Correct the list.",
        )
    return kept


def _shallower(config, kept: list[int]):  # type: ignore[no-untyped-def]
    """The teacher's configuration with fewer blocks; per-block lists keep the entries of the kept ones."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    total = text.num_hidden_layers
    for name, value in vars(text).items():
        if isinstance(value, list) and len(value) == total and name.endswith(("layer_types", "_types", "_layers")):
            setattr(text, name, [value[layer - 1] for layer in kept])
    text.num_hidden_layers = len(kept)
    return config


def _renumbered(state: dict[str, Tensor], blocks: Blocks, kept: list[int]) -> dict[str, Tensor]:
    """The teacher's weights under the names that they have in the student."""
    if blocks.shared:
        return state
    pattern = re.compile(rf"^{re.escape(blocks.path)}\.(\d+)\.")
    renumbered = {name: tensor for name, tensor in state.items() if not pattern.match(name)}
    for new, layer in enumerate(kept):
        old_prefix, new_prefix = f"{blocks.path}.{layer - 1}.", f"{blocks.path}.{new}."
        for name, tensor in state.items():
            if name.startswith(old_prefix):
                renumbered[new_prefix + name[len(old_prefix) :]] = tensor
    return renumbered
