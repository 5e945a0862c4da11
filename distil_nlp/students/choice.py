"""Which of a teacher's blocks a student keeps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distil_nlp.blocks import find_stacks
from distil_nlp.errors import ModelError, near_match
from distil_nlp.functional.layer_similarity import linear_cka, most_influential, representatives
from distil_nlp.mapping import LayerMapping
from distil_nlp.signals import Batch, valid_items, valid_tokens

TOKENS = 1024  # their Gram matrix in float64 takes 8 MB for each block

Layers = Literal["uniform", "first", "last", "skip", "cka", "influence"] | Sequence[int]
States = Sequence[Tensor]


def _standing_for_all(states: States, count: int) -> list[int]:
    return representatives(linear_cka(states[1:], states[1:]), count)


# Rules that look at what the first block reads and what each gives, and how they choose so many blocks, from 0.
MEASURED: Mapping[str, Callable[[States, int], list[int]]] = {"cka": _standing_for_all, "influence": most_influential}
STRATEGIES = ("uniform", "first", "last", "skip", *MEASURED)


def choose_blocks(
    teacher: PreTrainedModel,
    *,
    num_layers: int | None = None,
    layers: Layers | None = None,
    decoder_layers: int | Sequence[int] | None = None,
    batches: Iterable[Batch] | None = None,
) -> dict[str, list[int]]:
    r"""Which blocks of each stack to keep, numbered from 1.

    ``layers`` is a list, or the name of a rule for ``num_layers`` of N blocks:

    - ``"uniform"`` (the default): at even distances, the last among them (2, 4, 6 for 3 of 6).
    - ``"first"``, ``"last"``: the lowest, the uppermost.
    - ``"skip"``: every k-th from the start, :math:`k = \lfloor N / M \rfloor`.
    - ``"cka"``: those that together stand best for all blocks. With the similarity :math:`S_{ij}` of what two blocks
      give for the same tokens (linear CKA), the set with the largest :math:`\sum_j \max_{i} S_{ij}`.
    - ``"influence"``: those that turn hidden states the most, by :math:`1 - \cos` of what a block reads and gives. The
      uppermost block's is what transformers gives, after a final norm.

    The last two look at the first 1,024 tokens of the batches that are not padding.

    Args:
        teacher: The teacher.
        num_layers: How many to keep; of an encoder-decoder, that many of each stack.
        layers: Which to keep.
        decoder_layers: How many, or which, of the decoder, where it differs; a number goes by the rule of ``layers``.
        batches: Collated batches, for ``"cka"`` and ``"influence"``.

    Returns:
        The blocks by stack, as :func:`~distil_nlp.blocks.find_stacks` names them.

    Raises:
        ModelError: for blocks or rules that do not exist, and for one of these two without a batch.

    References:
        Kornblith et al. (2019), arXiv:1905.00414, section 3, for linear CKA. To keep the blocks that stand for all
        (k-medoids) is a choice of this library. Men et al. (2024), arXiv:2403.03853, for the influence of blocks.
        ``"uniform"``, ``"first"``, ``"last"`` and ``"skip"`` are those of
        :class:`~distil_nlp.mapping.LayerMapping`.
    """
    _check_rule(num_layers, layers)
    stacks = find_stacks(teacher)
    asked: dict[str, tuple[int | None, Layers | None]] = dict.fromkeys(stacks, (num_layers, layers))
    if decoder_layers is not None:
        if len(stacks) == 1:
            raise ModelError(
                f"A student with decoder_layers={decoder_layers} was asked for.",
                f"{type(teacher).__name__} has one stack of blocks.",
                "Use num_layers or layers.",
            )
        rule = layers if isinstance(layers, str) else None
        number = isinstance(decoder_layers, int)
        asked[list(stacks)[-1]] = (decoder_layers, rule) if number else (None, decoder_layers)  # type: ignore[assignment]
    for field, (count, which) in asked.items():
        _check_blocks(stacks[field].num_layers, count, which)
    measured = any(isinstance(which, str) and which in MEASURED for _, which in asked.values())
    states = block_states(teacher, batches) if measured else {}
    return {field: _kept(stacks[field].num_layers, *of_stack, states.get(field)) for field, of_stack in asked.items()}


def block_states(model: PreTrainedModel, batches: Iterable[Batch] | None) -> dict[str, list[Tensor]]:
    """What the first block of a stack reads, and what each block gives, for the first tokens that are not padding.

    Args:
        model: The model; it runs without dropout, and keeps its mode.
        batches: Collated ones; no more is read than needed.

    Returns:
        For each stack, ``[tokens, width]`` of each.

    Raises:
        ModelError: if there is no batch.
    """
    seen: dict[str, list[list[Tensor]]] = {field: [] for field in find_stacks(model)}
    training = model.training
    model.eval()
    try:
        for batch in batches or ():
            for field, states in zip(seen, _states(model, batch), strict=True):
                seen[field].append(states)
            if all(sum(len(states[0]) for states in found) >= TOKENS for found in seen.values()):
                break
    finally:
        model.train(training)
    if not all(seen.values()):
        raise ModelError(
            f"The blocks to keep are chosen by hidden states on real batches (layers: {', '.join(MEASURED)}).",
            "There is no batch.",
            "Give some, such as the first ones of the training data: batches=...",
        )
    return {field: [torch.cat(block)[:TOKENS] for block in zip(*found, strict=True)] for field, found in seen.items()}


def _states(model: PreTrainedModel, batch: Batch) -> Iterator[list[Tensor]]:
    """What blocks read and give for the tokens that are not padding, ``[tokens, width]``; stack by stack."""
    both = bool(getattr(model.config, "is_encoder_decoder", False))
    core: Any = model if both else model.base_model  # labels are what a decoder's inputs are made of
    known = inspect.signature(core.forward).parameters
    placed = {key: value.to(model.device) for key, value in batch.items() if key in known}
    with torch.no_grad():
        output = core(**placed, output_hidden_states=True)
    masks = {"hidden_states": valid_tokens(placed)}
    if both:
        masks = {"encoder_hidden_states": valid_tokens(placed), "decoder_hidden_states": valid_items(placed, "token")}
    for name, mask in masks.items():
        yield [states[mask].float().cpu() for states in output[name]]


def _check_rule(num_layers: int | None, layers: Layers | None) -> None:
    if not isinstance(layers, str):
        return
    if layers not in STRATEGIES:
        raise ModelError(
            f"A student is to keep the layers '{layers}'.", near_match(layers, STRATEGIES), "Or list them by number."
        )
    if num_layers is None:
        raise ModelError(
            f"A student is to keep the layers '{layers}'.",
            "That says which, and not how many.",
            "Give num_layers beside it.",
        )


def _check_blocks(total: int, num_layers: int | None, layers: Layers | None) -> None:
    if num_layers is not None and not 1 <= num_layers <= total:
        raise ModelError(
            f"A student of {num_layers} blocks was asked for.", f"The teacher has {total}.", f"Ask for 1 to {total}."
        )
    if layers is None or isinstance(layers, str):
        return
    if not layers or not all(1 <= abs(layer) <= total for layer in layers):
        raise ModelError(
            f"The student is to keep the teacher's blocks {list(layers)}.",
            f"The teacher has {total} blocks, numbered 1 to {total} (or -1 to -{total} from the end).",
            "Correct the list.",
        )


def _kept(total: int, num_layers: int | None, layers: Layers | None, states: States | None) -> list[int]:
    if layers is not None and not isinstance(layers, str):
        return [layer if layer > 0 else total + 1 + layer for layer in layers]
    count = total if num_layers is None else num_layers
    if states is not None and isinstance(layers, str):
        return [block + 1 for block in MEASURED[layers](states, count)]
    return [block for _, block in LayerMapping(layers or "uniform").resolve(count, total)]
