"""What a word can be replaced with: its neighbours among embeddings, or what a masked language model expects there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from datasets.fingerprint import Hasher
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distil_nlp.data.words import Words
from distil_nlp.errors import ModelError

_WORD_STARTS = ("\u0120", "\u2581")  # how byte-level and SentencePiece vocabularies write the space before a word
_LOGITS = 2**25  # that are held at a time

Candidates = list[list[str]]


class CandidateSource(Protocol):
    """Gives candidates for the words of texts."""

    def __call__(self, texts: Sequence[Words]) -> list[Candidates]:
        """The candidates for each word of each text, likeliest first; none for words that have none."""
        ...

    def fingerprint(self) -> str:
        """What tells it from a source with other candidates."""
        ...


class WordVocabulary:
    """The tokens of a vocabulary that are whole words, made of letters alone.

    Args:
        tokenizer: The vocabulary's tokenizer.
        size: Rows of the model's embedding; tokens beyond it are left out.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
        self.tokenizer = tokenizer
        tokens = tokenizer.convert_ids_to_tokens(list(range(min(len(tokenizer), size))))
        special = set(tokenizer.all_special_ids)
        marked = any(token.startswith(_WORD_STARTS) for token in tokens if token)  # a number may have none
        texts = {}
        for number, token in enumerate(tokens):
            if token and number not in special and (not marked or token.startswith(_WORD_STARTS)):
                text = tokenizer.convert_tokens_to_string([token]).strip() if marked else token
                if text.isalpha():
                    texts[number] = text
        self._known = set(texts)
        found = self.ids(texts.values())
        self.words = {number: text for number, text in texts.items() if found.get(text) == number}
        self.numbers = torch.tensor(sorted(self.words), dtype=torch.long)
        spelled = [self.words[number].casefold() for number in sorted(self.words)]
        self._spellings = {word: place for place, word in enumerate(dict.fromkeys(spelled))}
        self._spelled = torch.tensor([self._spellings[word] for word in spelled], dtype=torch.long)  # [tokens]

    def ids(self, words: Iterable[str]) -> dict[str, int]:
        """The token of each word that is one token."""
        distinct, found = list(dict.fromkeys(words)), dict[str, int]()
        for space in (" ", ""):
            texts = [space + word for word in distinct]
            encoded = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
            found |= {
                word: ids[0]
                for word, ids in zip(distinct, encoded, strict=True)
                if len(ids) == 1 and ids[0] in self._known
            }
        return found

    def best(self, scores: Tensor, words: Sequence[str], count: int) -> list[list[str]]:
        """The words with the highest scores, but for a word itself, whatever its case.

        Args:
            scores: ``[words, tokens]``, of the tokens in :attr:`numbers`.
            words: What is to be replaced.
            count: How many, at most.
        """
        own = torch.tensor([self._spellings.get(word.casefold(), -1) for word in words], dtype=torch.long)
        scores = scores.masked_fill(self._spelled == own[:, None], -torch.inf)
        values, places = scores.topk(min(count, scores.shape[1]), dim=-1)
        return [
            [_cased_like(word, self.words[int(number)]) for number in self.numbers[row[value > -torch.inf]]]
            for word, value, row in zip(words, values, places, strict=True)
        ]

    @cached_property
    def fingerprint(self) -> str:
        """Of its tokens."""
        return str(Hasher.hash(sorted(self.words.items())))


class Neighbours:
    """For a word that is one token, the words whose input embeddings are the nearest to its own, by their cosine.

    Args:
        tokenizer: The model's tokenizer.
        embeddings: The model's input embeddings, ``[vocab, width]``.
        count: Candidates of each word.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, embeddings: Tensor, *, count: int) -> None:
        self.vocabulary, self.count = WordVocabulary(tokenizer, len(embeddings)), count
        self._directions = F.normalize(embeddings.detach().float().cpu(), dim=-1)  # [vocab, width]
        self._others = self._directions[self.vocabulary.numbers]  # [tokens, width]
        self._found: dict[str, list[str]] = {}

    def __call__(self, texts: Sequence[Words]) -> list[Candidates]:
        """The nearest words, in the case of the word that they replace."""
        wanted = {word for text in texts for word in text if word.isalpha()} - self._found.keys()
        ids = self.vocabulary.ids(sorted(wanted))
        words = list(ids)
        for start in range(0, len(words), 256):
            chunk = words[start : start + 256]
            cosines = self._directions[[ids[word] for word in chunk]] @ self._others.t()  # [words, tokens]
            self._found |= zip(chunk, self.vocabulary.best(cosines, chunk, self.count), strict=True)
        self._found |= {word: [] for word in wanted - ids.keys()}
        return [[self._found.get(word, []) for word in text] for text in texts]

    def fingerprint(self) -> str:
        """Of vocabulary and embeddings."""
        return str(Hasher.hash(["neighbours", self.vocabulary.fingerprint, _digest([self._directions]), self.count]))


class MaskedWords:
    """For a word that is one token, the words that a masked language model gives the highest probability in its place.

    Args:
        model: A masked language model.
        tokenizer: Its tokenizer.
        count: Candidates of each word.
        max_length: Tokens of a text; words beyond have no candidates.

    Raises:
        ModelError: The tokenizer has no mask token, or does not say where its tokens stand in a text.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, count: int, max_length: int
    ) -> None:
        if tokenizer.mask_token_id is None or not tokenizer.is_fast:
            raise ModelError(
                "`masked_lm` asks a masked language model for the words in the place of a mask.",
                "Its tokenizer has no mask token."
                if tokenizer.is_fast
                else f"{type(tokenizer).__name__} does not say where tokens stand in a text.",
                "Use a model like BERT or RoBERTa, with a fast tokenizer (a tokenizer.json).",
            )
        self.model, self.tokenizer, self.count, self.max_length = model.eval(), tokenizer, count, max_length
        self.vocabulary = WordVocabulary(tokenizer, model.config.get_text_config().vocab_size)

    def __call__(self, texts: Sequence[Words]) -> list[Candidates]:
        """The likeliest words where each word was."""
        found: list[Candidates] = [[[] for _ in text] for text in texts]
        encoded = self.tokenizer(
            [text.text for text in texts], truncation=True, max_length=self.max_length, return_offsets_mapping=True
        )
        asked = [
            (ids, place, number, word)
            for number, (text, ids, offsets) in enumerate(
                zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
            )
            for word, place in self._single_tokens(text, ids, offsets)
        ]
        asked.sort(key=lambda question: len(question[0]))
        while asked:
            longest = len(asked[-1][0])
            size = max(1, _LOGITS // (longest * self.model.config.get_text_config().vocab_size))
            batch, asked = asked[-size:], asked[:-size]
            words = [texts[number][word] for _, _, number, word in batch]
            logits = self._at_masks([ids for ids, *_ in batch], [place for _, place, *_ in batch])
            best = self.vocabulary.best(logits[:, self.vocabulary.numbers], words, self.count)
            for (_, _, number, word), candidates in zip(batch, best, strict=True):
                found[number][word] = candidates
        return found

    def _single_tokens(self, text: Words, ids: list[int], offsets: list[tuple[int, int]]) -> Iterable[tuple[int, int]]:
        """Words that are one token: their number, and the token's place."""
        beyond = max((last for _, last in offsets), default=0)
        for number, (word, (start, end)) in enumerate(zip(text, text.spans, strict=True)):
            if start >= beyond:
                return
            places = [place for place, (first, last) in enumerate(offsets) if first < end and last > start]
            if word.isalpha() and len(places) == 1 and ids[places[0]] in self.vocabulary.words:
                yield number, places[0]

    @torch.inference_mode()
    def _at_masks(self, rows: list[list[int]], places: list[int]) -> Tensor:
        """Logits in the place of one token of each row, ``[rows, vocab]``."""
        lengths, pad = torch.tensor([len(row) for row in rows]), self.tokenizer.pad_token_id
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=pad)
        ids[torch.arange(len(rows)), places] = self.tokenizer.mask_token_id
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        output = self.model(input_ids=ids.to(self.model.device), attention_mask=mask.long().to(self.model.device))
        logits: Tensor = output.logits[torch.arange(len(rows)), places]
        return logits.float().cpu()

    def fingerprint(self) -> str:
        """Of vocabulary and weights."""
        weights = _digest(self.model.state_dict().values())
        return str(Hasher.hash(["masked_lm", self.vocabulary.fingerprint, weights, self.count, self.max_length]))


def _cased_like(word: str, other: str) -> str:
    return other.title() if word.istitle() else other


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
