"""A model and its tokenizer with the tokens that a corpus uses."""

from __future__ import annotations

import copy
import difflib
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from distil_nlp.errors import DataError, ModelError
from distil_nlp.students.inherit import changed_axes, inherit
from distil_nlp.students.segmentation import (
    Specification,
    always_needed,
    greedy_pieces,
    parts_of,
    trimmed,
    vocabulary_of,
)

_MORE_IDS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids")


@dataclass(frozen=True)
class TrimmedVocabulary:
    """A model with fewer tokens; prints what that saves in one line.

    Attributes:
        model: The model; nothing but its tokens differs.
        tokenizer: Its tokenizer.
        kept: The former id of each token, in the order of the new ids.
        coverage: Share of the corpus's tokens whose id is kept.
        old_tokens: Rows of the former embedding.
        old_parameters: Parameters of the former model.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kept: list[int]
    coverage: float
    old_tokens: int
    old_parameters: int

    def __str__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return (
            f"vocabulary: {self.old_tokens:,} -> {len(self.kept):,} tokens, {self.coverage:.2%} of the corpus; "
            f"{self.old_parameters:,} -> {parameters:,} parameters, "
            f"{self.old_parameters * 4 / 1e6:,.1f} -> {parameters * 4 / 1e6:,.1f} MB in float32"
        )


def trim_vocabulary(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    min_count: int = 1,
    max_size: int | None = None,
    keep: Iterable[str] = (),
) -> TrimmedVocabulary:
    """Drops the tokens that a corpus does not use, from a model's embeddings and from its tokenizer.

    With ``min_count=1`` and no ``max_size`` every text of the corpus is cut into the same tokens, which have
    other ids, and the model's outputs for it are the same. Always kept are special and added tokens, the 256 bytes of
    byte-level BPE and of byte fallback, and otherwise single characters that occur in the corpus or in ASCII, so that
    words that the corpus did not have are cut into smaller pieces. BPE keeps every token on the way to a kept one too.

    Args:
        model: Any model with one vocabulary, teacher or student; it is not changed.
        tokenizer: Its fast tokenizer; it is not changed. What is returned is saved and loaded like it.
        texts: The corpus. Texts of a pair are two texts.
        min_count: How often a token has to occur.
        max_size: The largest vocabulary, of the most frequent tokens.
        keep: More tokens to keep, as the tokenizer writes them.

    Raises:
        ModelError: for a slow tokenizer, one that is not WordPiece, BPE or Unigram, tokens in ``keep`` that it does not
            have, a ``max_size`` below what is always kept, or a model whose embeddings cannot be trimmed.
        DataError: if there is no text.
    """
    specification, vocabulary = _specification(tokenizer), tokenizer.get_vocab()
    _check_fits(model, vocabulary)
    named = _known(keep, vocabulary)
    counts, pieces = _count(tokenizer, specification, texts)
    required = _always_kept(model, tokenizer, specification, counts)
    required |= {vocabulary[token] for token in pieces | named}
    kept = _choose(specification, counts, required, min_count=min_count, max_size=max_size)
    known = set(vocabulary.values())
    kept.sort(key=lambda index: (index not in known, index))  # rows that the tokenizer has no token for come last
    return TrimmedVocabulary(
        model=_trimmed_model(model, kept),
        tokenizer=_trimmed_tokenizer(tokenizer, specification, kept),
        kept=kept,
        coverage=sum(counts[index] for index in kept) / sum(counts.values()),
        old_tokens=_rows(model),
        old_parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def _specification(tokenizer: PreTrainedTokenizerBase) -> Specification:
    if not tokenizer.is_fast:
        raise ModelError(
            "The vocabulary of a tokenizer is to be trimmed.",
            f"{type(tokenizer).__name__} is a slow tokenizer, which has no tokenizer.json.",
            "Load the fast one: AutoTokenizer.from_pretrained(...).",
        )
    specification: Specification = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary_of(specification)
    return specification


def _check_fits(model: PreTrainedModel, vocabulary: dict[str, int]) -> None:
    highest, rows = max(vocabulary.values()), _rows(model)
    if highest >= rows:
        raise ModelError(
            f"The vocabulary of {type(model).__name__} is to be trimmed.",
            f"The tokenizer's ids go up to {highest}, and the model has {rows} embeddings (from 0).",
            "Give the tokenizer that was saved with the model.",
        )


def _count(
    tokenizer: PreTrainedTokenizerBase, specification: Specification, texts: Iterable[str]
) -> tuple[Counter[int], set[str]]:
    """How often each id occurs in the corpus; and the pieces that WordPiece finds in words that are unknown to it."""
    counts: Counter[int] = Counter()
    pieces: set[str] = set()
    model, normalizer = specification["model"], tokenizer.backend_tokenizer.normalizer
    rest = iter(() if isinstance(texts, str) else texts)
    while batch := list(islice(rest, 1000)):
        encoded = tokenizer(batch, add_special_tokens=False, truncation=False, padding=False, verbose=False)
        for text, encoding in zip(batch, encoded.encodings, strict=True):
            counts.update(encoding.ids)
            if model["type"] != "WordPiece" or model["unk_token"] not in encoding.tokens:
                continue
            for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True):
                if token == model["unk_token"]:
                    word = text[start:end] if normalizer is None else normalizer.normalize_str(text[start:end])
                    pieces.update(greedy_pieces(word.strip(), specification))
    if not counts:
        raise DataError(
            "A vocabulary is trimmed to the tokens of a corpus.",
            "It is one text, whose letters are no texts." if isinstance(texts, str) else "It has no token.",
            "Give a list of texts, such as those of the training data.",
        )
    return counts, pieces


def _known(keep: Iterable[str], vocabulary: dict[str, int]) -> set[str]:
    tokens = set(keep)
    for token in sorted(tokens - set(vocabulary)):
        close = difflib.get_close_matches(token, vocabulary, n=1)
        raise ModelError(
            f"The token '{token}' is to be kept.",
            "The tokenizer has no such token." + (f" Did you mean '{close[0]}'?" if close else ""),
            "Write it as the tokenizer does: tokenizer.tokenize(text) shows how.",
        )
    return tokens


def _always_kept(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, specification: Specification, counts: Counter[int]
) -> set[int]:
    rows, vocabulary = _rows(model), vocabulary_of(specification)
    used = {token for token, index in vocabulary.items() if index in counts}
    kept = {vocabulary[token] for token in always_needed(specification, used)}
    kept |= {token["id"] for token in specification["added_tokens"]} | set(tokenizer.all_special_ids)
    configs = [
        model.config,
        model.config.get_text_config(),
        *([model.generation_config] if model.can_generate() else []),
    ]
    for value in [value for config in configs for value in _ids_in(config).values()]:
        kept |= {index for index in _flat(value) if 0 <= index < rows}
    for module in model.modules():  # RoBERTa numbers positions from the padding id on, which must therefore stay
        if "Position" in type(module).__name__ or (isinstance(module, nn.Embedding) and len(module.weight) != rows):
            kept |= set(range((getattr(module, "padding_idx", None) or -1) + 1))
    return kept


def _choose(
    specification: Specification, counts: Counter[int], required: set[int], *, min_count: int, max_size: int | None
) -> list[int]:
    vocabulary, parts = vocabulary_of(specification), parts_of(specification)
    tokens = {index: token for token, index in vocabulary.items()}

    def with_parts(index: int) -> set[int]:
        return {index} | ({vocabulary[part] for part in parts(tokens[index])} if index in tokens else set())

    chosen = set().union(*map(with_parts, required))
    if max_size is not None and max_size < len(chosen):
        raise ModelError(
            f"A vocabulary of at most {max_size} tokens was asked for.",
            f"{len(chosen)} tokens are always kept: special and added ones, characters, and those in `keep`.",
            f"Ask for {len(chosen)} or more.",
        )
    for index, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        more = with_parts(index) - chosen if count >= min_count else set()
        if max_size is None or len(chosen) + len(more) <= max_size:
            chosen |= more
    return sorted(chosen)


def _trimmed_model(model: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    config, rows = copy.deepcopy(model.config), _rows(model)
    config.get_text_config().vocab_size = len(kept)
    new_ids = {old: new for new, old in enumerate(kept)}
    for part in {id(each): each for each in (config, config.get_text_config())}.values():
        _renumber(part, new_ids)
    changed = changed_axes(model, config)
    if not changed or set(changed.values()) != {rows}:
        raise ModelError(
            f"The vocabulary of {type(model).__name__} is to be trimmed.",
            f"Its embedding has {rows} rows; what follows config.vocab_size is {sorted(changed)}.",
            "Models with one vocabulary, whose size is config.vocab_size, are supported.",
        )
    state = model.state_dict()
    for name, axis in changed:
        state[name] = state[name].index_select(axis, torch.tensor(kept, device=state[name].device))
    made: Any = inherit(model, config, state)
    if model.can_generate():
        _renumber(made.generation_config, new_ids)
    built: PreTrainedModel = made.to(model.device, model.dtype)
    return built


def _rows(model: PreTrainedModel) -> int:
    embedding: Any = model.get_input_embeddings()
    return int(embedding.weight.shape[0])


def _ids_in(config: Any) -> dict[str, Any]:
    """The fields of a configuration that name tokens by their ids: numbers, lists, or lists of lists."""
    fields = {name: value for name, value in vars(config).items() if name.endswith("_token_id") or name in _MORE_IDS}
    return {name: value for name, value in fields.items() if value is not None}


def _flat(value: Any) -> list[int]:
    return [index for each in value for index in _flat(each)] if isinstance(value, list) else [value]


def _renumber(config: Any, new_ids: dict[int, int]) -> None:
    """Gives the tokens that a configuration names their new ids; ids of no token stay as they are."""

    def renumbered(value: Any) -> Any:
        return [renumbered(each) for each in value] if isinstance(value, list) else new_ids.get(value, value)

    for name, value in _ids_in(config).items():
        setattr(config, name, renumbered(value))


def _trimmed_tokenizer(
    tokenizer: PreTrainedTokenizerBase, specification: Specification, kept: Sequence[int]
) -> PreTrainedTokenizerBase:
    """The tokenizer as it will be loaded, which is therefore saved and loaded once."""
    new_ids = {old: new for new, old in enumerate(kept)}
    made: Any = copy.deepcopy(tokenizer)
    made._tokenizer = Tokenizer.from_str(json.dumps(trimmed(specification, new_ids)))
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    loaded.name_or_path = tokenizer.name_or_path
    expected = {token: new_ids[index] for token, index in tokenizer.get_vocab().items() if index in new_ids}
    if loaded.get_vocab() != expected or type(loaded) is not type(tokenizer):
        raise ModelError(
            "The vocabulary of a tokenizer is to be trimmed.",
            f"A {type(tokenizer).__name__} with other tokens is not the same once it was saved and loaded.",
            "Save and load the tokenizer first, and trim what was loaded.",
        )
    return loaded
