"""A model and its tokenizer with the tokens that a corpus uses."""

from __future__ import annotations

import copy
import difflib
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from tokenizers import Encoding, Tokenizer
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from distil_nlp.errors import DataError, ModelError
from distil_nlp.students.adapters import refuse_adapters
from distil_nlp.students.embeddings import embedding_rows, named_ids, trimmed_model
from distil_nlp.students.segmentation import (
    Specification,
    always_needed,
    greedy_pieces,
    parts_of,
    trimmed,
    vocabulary_of,
)

Text = str | Sequence[str]


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
    texts: Iterable[Text],
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
        texts: The corpus. Texts of a pair are two texts; a text that is tokenized word by word
            (``is_split_into_words``) is a list of words.
        min_count: How often a token has to occur.
        max_size: The largest vocabulary, of the most frequent tokens.
        keep: More tokens to keep, as the tokenizer writes them.

    Raises:
        ModelError: for a slow tokenizer, one that is not WordPiece, BPE or Unigram, one that is loaded without what was
            set in memory, tokens in ``keep`` that it does not have, a ``max_size`` below what is always kept, or a
            model whose embeddings cannot be trimmed, or with adapters.
        DataError: if there is no text.
    """
    refuse_adapters(model)
    specification, vocabulary = _specification(tokenizer), tokenizer.get_vocab()
    _check_fits(model, vocabulary)
    named = _known(keep, vocabulary)
    counts, pieces, sample = _count(tokenizer, specification, texts)
    required = _always_kept(model, tokenizer, specification, counts)
    required |= {vocabulary[token] for token in pieces | named}
    kept = _choose(specification, counts, required, min_count=min_count, max_size=max_size)
    known = set(vocabulary.values())
    kept.sort(key=lambda index: (index not in known, index))  # rows that the tokenizer has no token for come last
    return TrimmedVocabulary(
        model=trimmed_model(model, kept),
        tokenizer=_trimmed_tokenizer(tokenizer, specification, kept, sample),
        kept=kept,
        coverage=sum(counts[index] for index in kept) / sum(counts.values()),
        old_tokens=embedding_rows(model),
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
    highest, rows = max(vocabulary.values()), embedding_rows(model)
    if highest >= rows:
        raise ModelError(
            f"The vocabulary of {type(model).__name__} is to be trimmed.",
            f"The tokenizer's ids go up to {highest}, and the model has {rows} embeddings (from 0).",
            "Give the tokenizer that was saved with the model.",
        )


def _count(
    tokenizer: PreTrainedTokenizerBase, specification: Specification, texts: Iterable[Text]
) -> tuple[Counter[int], set[str], list[Text]]:
    """How often each id occurs in the corpus; the pieces that WordPiece finds in words unknown to it; some texts."""
    counts: Counter[int] = Counter()
    pieces: set[str] = set()
    sample: list[Text] = []
    model = specification["model"]
    for batch, words in _batches(texts):
        sample += batch[: 100 - len(sample)]
        encoded = tokenizer(
            batch, add_special_tokens=False, truncation=False, padding=False, verbose=False, is_split_into_words=words
        )
        for text, encoding in zip(batch, encoded.encodings, strict=True):
            counts.update(encoding.ids)
            if model["type"] == "WordPiece" and model["unk_token"] in encoding.tokens:
                for word in _unknown_words(tokenizer, text, encoding, model["unk_token"]):
                    pieces.update(greedy_pieces(word, specification))
    if not counts:
        raise DataError(
            "A vocabulary is trimmed to the tokens of a corpus.",
            "It is one text, whose letters are no texts." if isinstance(texts, str) else "It has no token.",
            "Give a list of texts, such as those of the training data.",
        )
    return counts, pieces, sample


def _batches(texts: Iterable[Text]) -> Iterator[tuple[list[Text], bool]]:
    """Some texts of one kind at a time, and whether they are lists of words."""
    for words, alike in groupby(() if isinstance(texts, str) else texts, key=lambda text: not isinstance(text, str)):
        while batch := list(islice(alike, 1000)):
            yield batch, words


def _unknown_words(tokenizer: PreTrainedTokenizerBase, text: Text, encoding: Encoding, unknown: str) -> Iterator[str]:
    normalizer = tokenizer.backend_tokenizer.normalizer
    for token, (start, end), at in zip(encoding.tokens, encoding.offsets, encoding.word_ids, strict=True):
        if token == unknown and at is not None:
            within = text if isinstance(text, str) else text[at]
            word = within[start:end] if normalizer is None else normalizer.normalize_str(within[start:end])
            yield word.strip()


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
    vocabulary = vocabulary_of(specification)
    used = {token for token, index in vocabulary.items() if index in counts}
    kept = {vocabulary[token] for token in always_needed(specification, used)}
    kept |= {token["id"] for token in specification["added_tokens"]} | set(tokenizer.all_special_ids)
    kept |= {*tokenizer("")["input_ids"], *tokenizer("", "")["input_ids"]}  # what is put around texts
    return kept | named_ids(model)


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


def _trimmed_tokenizer(
    tokenizer: PreTrainedTokenizerBase, specification: Specification, kept: Sequence[int], sample: Sequence[Text]
) -> PreTrainedTokenizerBase:
    """The tokenizer as it will be loaded, which is therefore saved and loaded once.

    Some classes make all but the tokens anew then, without what was set in memory.
    """
    new_ids = {old: new for new, old in enumerate(kept)}
    made: Any = copy.deepcopy(tokenizer)
    made._tokenizer = Tokenizer.from_str(json.dumps(trimmed(specification, new_ids)))
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    loaded.name_or_path = loaded.init_kwargs["name_or_path"] = tokenizer.name_or_path  # datasets hashes it
    expected = {token: new_ids[index] for token, index in tokenizer.get_vocab().items() if index in new_ids}
    same = loaded.get_vocab() == expected and type(loaded) is type(tokenizer)
    if not same or _cut(loaded, sample) != _cut(made, sample):
        raise ModelError(
            "The vocabulary of a tokenizer is to be trimmed.",
            f"A {type(tokenizer).__name__} with other tokens is not the same once it was saved and loaded.",
            "Save and load the tokenizer first, and trim what was loaded.",
        )
    return loaded


def _cut(tokenizer: PreTrainedTokenizerBase, texts: Iterable[Text]) -> list[Any]:
    """The ids of texts with what is put around them, and of an empty pair."""
    batches = [tokenizer(batch, is_split_into_words=words, verbose=False) for batch, words in _batches(texts)]
    return [tokenizer("", "")["input_ids"], *(batch["input_ids"] for batch in batches)]
