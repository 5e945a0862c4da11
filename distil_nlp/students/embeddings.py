"""A model with the embeddings of some tokens only."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distil_nlp.errors import ModelError
from distil_nlp.students.adapters import refuse_adapters
from distil_nlp.students.inherit import changed_axes, inherit, placed_like

_MORE_IDS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids", "sequence_bias")


def trim_embeddings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, trimmed: PreTrainedTokenizerBase
) -> PreTrainedModel:
    """A model that reads a trimmed tokenizer, made of one that reads the whole one.

    For texts that both tokenizers cut into the same tokens its outputs are the same.

    Args:
        model: A model of the whole vocabulary; it is not changed.
        tokenizer: The whole tokenizer.
        trimmed: What :func:`~distil_nlp.students.trim_vocabulary` made of it, perhaps for another model.

    Raises:
        ModelError: if the one tokenizer is not the other's, or lacks a token that the model's configuration names,
            or if the model has adapters.
    """
    refuse_adapters(model)
    return trimmed_model(model, kept_ids(model, tokenizer, trimmed))


def kept_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, trimmed: PreTrainedTokenizerBase) -> list[int]:
    """The former id of each embedding that is left; those without a token, which the model names, come last."""
    old, new = tokenizer.get_vocab(), trimmed.get_vocab()
    tokens = sorted(new, key=lambda token: new[token])
    asked = f"{type(model).__name__} is to have the tokens of a trimmed tokenizer."
    if strange := next((token for place, token in enumerate(tokens) if token not in old or new[token] != place), None):
        raise ModelError(
            asked,
            f"Its token {strange!r} is not one of the whole tokenizer, or has an id that trimming would not give.",
            "Give the tokenizers before and after trim_vocabulary.",
        )
    kept, known = [old[token] for token in tokens], {index: token for token, index in old.items()}
    named = named_ids(model)
    for index in sorted(named & set(known) - set(kept)):
        raise ModelError(
            asked,
            f"Its configuration names the token {known[index]!r} ({index}), which was not kept.",
            f"Trim with keep=[{known[index]!r}].",
        )
    return kept + sorted(named - set(known))


def named_ids(model: PreTrainedModel) -> set[int]:
    """The rows of the embedding that a model's configuration names, or that it counts positions from."""
    rows, configs = embedding_rows(model), [model.config, model.config.get_text_config()]
    if model.can_generate():
        configs.append(model.generation_config)  # type: ignore[arg-type]
    values = [value for config in configs for value in _ids_in(config).values()]
    named = {index for value in values for index in _flat(value) if 0 <= index < rows}
    for module in model.modules():  # RoBERTa numbers positions from the padding id on, which must therefore stay
        if "Position" in type(module).__name__ or (isinstance(module, nn.Embedding) and len(module.weight) != rows):
            named |= set(range((getattr(module, "padding_idx", None) or -1) + 1))
    return named


def trimmed_model(model: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """A model with some rows of its embeddings, in the order given.

    Raises:
        ModelError: if its embeddings do not follow ``config.vocab_size``.
    """
    config, rows = copy.deepcopy(model.config), embedding_rows(model)
    config.get_text_config().vocab_size = rows + 1
    changed = changed_axes(model, config)
    if not changed or set(changed.values()) != {rows}:
        raise ModelError(
            f"The vocabulary of {type(model).__name__} is to be trimmed.",
            f"Its embedding has {rows} rows; what follows config.vocab_size is {sorted(changed)}.",
            "Models with one vocabulary, whose size is config.vocab_size, are supported.",
        )
    config.get_text_config().vocab_size = len(kept)
    new_ids = {old: new for new, old in enumerate(kept)}
    for part in {id(each): each for each in (config, config.get_text_config())}.values():
        _renumber(part, new_ids)
    state = model.state_dict()
    for name, axis in changed:
        state[name] = state[name].index_select(axis, torch.tensor(kept, device=state[name].device))
    made = inherit(model, config, state)
    if model.can_generate():
        _renumber(made.generation_config, new_ids)
    return placed_like(made, model)


def embedding_rows(model: PreTrainedModel) -> int:
    """How many rows a model's input embedding has."""
    embedding: Any = model.get_input_embeddings()
    return int(embedding.weight.shape[0])


def _ids_in(config: Any) -> dict[str, Any]:
    """The fields of a configuration that name tokens by their ids: numbers, lists, or dicts by them."""
    fields = {name: value for name, value in vars(config).items() if name.endswith("_token_id") or name in _MORE_IDS}
    return {name: value for name, value in fields.items() if value is not None}


def _flat(value: Any) -> list[int]:
    if isinstance(value, list | tuple | dict):
        return [index for each in value for index in _flat(each)]
    return [value] if isinstance(value, int) else []  # a bias is none


def _renumber(config: Any, new_ids: dict[int, int]) -> None:
    """Gives the tokens that a configuration names their new ids; ids of no token stay as they are."""

    def renumbered(value: Any) -> Any:
        if isinstance(value, dict):
            return {renumbered(ids): bias for ids, bias in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(renumbered, value))
        return new_ids.get(value, value) if isinstance(value, int) else value

    for name, value in _ids_in(config).items():
        setattr(config, name, renumbered(value))
