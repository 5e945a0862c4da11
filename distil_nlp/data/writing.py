"""Texts that an encoder-decoder writes for its inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

Batch = Mapping[str, Any]
_DRAWING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
_BEAMS = ("early_stopping", "length_penalty")


def writer(
    model: PreTrainedModel, *, num_beams: int, max_new_tokens: int, exactly: bool = False
) -> Callable[[Batch], list[list[int]]]:
    """A model as a function from padded batches to the tokens that it writes; none is drawn at random.

    What else the checkpoint's own ``generation_config`` asks for is done: the shortest length, what is not to be
    repeated, the length penalty of a beam search.

    Args:
        model: An encoder-decoder.
        num_beams: Width of the beam search; 1 takes the likeliest token each time.
        max_new_tokens: When to stop at the latest.
        exactly: Whether to go on until then, whatever is written.

    Returns:
        From ``input_ids`` and ``attention_mask``, ``[batch, tokens]``, to each row's tokens: after the one that the
        decoder starts with, up to the first end of sequence and with it.
    """
    config = _settings(model, num_beams)
    config.max_length, config.max_new_tokens = None, max_new_tokens
    if exactly:
        config.min_length, config.min_new_tokens = None, max_new_tokens
    ends = ends_of(config)

    @torch.inference_mode()
    def write(batch: Batch) -> list[list[int]]:
        device = next(model.parameters()).device
        inputs = {name: torch.as_tensor(batch[name]).to(device) for name in ("input_ids", "attention_mask")}
        with _generating_by(model, config):
            made: Tensor = model.generate(**inputs, generation_config=config)  # type: ignore[operator]
        return [up_to_end(row[1:], ends) for row in made.tolist()]

    return write


def last_of_targets(model: PreTrainedModel) -> list[int]:
    """What targets have after the end of sequence: of mBART the language, which its decoder reads first.

    Such a model begins a text with a token that in training it finds at the end of the labels.
    """
    start, ends = model.generation_config.decoder_start_token_id, ends_of(model.generation_config)
    shift: Any = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if shift is None or start is None or not ends or start in ends:
        return []
    read_first = [int(shift(torch.tensor([labels]))[0, 0]) for labels in (ends, [*ends, start])]
    return [start] if read_first == [ends[-1], start] else []


def ends_of(config: GenerationConfig) -> list[int]:
    """The tokens that end a text."""
    if config.eos_token_id is None:
        return []
    return config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]


def up_to_end(tokens: list[int], ends: Collection[int]) -> list[int]:
    """Tokens up to the first end, and with it."""
    stop = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: stop + 1]


def _settings(model: PreTrainedModel, num_beams: int) -> GenerationConfig:
    config: GenerationConfig = copy.deepcopy(model.generation_config)
    config.num_beams, config.do_sample = num_beams, False
    config.num_return_sequences, config.return_dict_in_generate = 1, False
    unset_ignored(config)
    return config


def unset_ignored(config: GenerationConfig) -> None:
    """Unsets what settings say of drawing tokens at random, or of a beam search, where they ask for neither."""
    ignored = (*(() if config.do_sample else _DRAWING), *(() if (config.num_beams or 1) > 1 else _BEAMS))
    for name in ignored:
        if getattr(config, name, None) is not None:
            setattr(config, name, None)


@contextmanager
def _generating_by(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Has ``generate`` see no other settings: it would fill in, from the model's own, what is None."""
    kept, model.generation_config = model.generation_config, config
    try:
        yield
    finally:
        model.generation_config = kept
