"""The next token: of plain text, of what completes a prompt, or of what an assistant says."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from distil_nlp.data.align import check_fast
from distil_nlp.data.batches import Lists, list_batches, map_texts
from distil_nlp.data.chat import chat_text, check_template, conversations, encode_chat, has_answer
from distil_nlp.data.collate import PadTokenLabels
from distil_nlp.data.read import RawData
from distil_nlp.data.tasks.base import IGNORED, TASKS, Array
from distil_nlp.data.tasks.language_modeling import LanguageModeling
from distil_nlp.data.texts import text_column
from distil_nlp.errors import DataError, ModelError

logger = logging.getLogger(__name__)


@TASKS.register("text-generation")
class TextGeneration(LanguageModeling):
    """Causal language modelling; of prompts, and of what a user says, nothing is to be predicted.

    A text ends in the tokenizer's end of text, which is predicted too. Packed texts see those before them in a block.
    """

    auto_class = AutoModelForCausalLM
    keys = ("text", "prompt", "completion", "messages")
    metrics = ("perplexity", "next_token_accuracy")
    shift = 1

    def says_nothing(self, rows: Dataset, raw: RawData) -> bool:
        """All completions are empty."""
        return self.settings.completion is not None and not any(text_column(rows, "completion", self.settings))

    def clean_rows(self, rows: Dataset, dropped: Counter[str]) -> Dataset:
        """Those with ``text``, or ``prompt`` and ``completion``, or ``messages``."""
        if self.settings.messages is not None:
            good = [has_answer(messages) for messages in conversations(rows, self.settings)]
            reason = "no answer of an assistant"
        else:
            columns = [text_column(rows, name, self.settings, strip=False) for name in self.columns]
            good = [all(text.strip() for text in texts) for texts in zip(*columns, strict=True)]
            reason = "empty text"
        dropped[reason] += good.count(False)
        kept = [row for row, usable in enumerate(good) if usable]
        return rows.rename_columns({column: name for name, column in self.columns.items()}).select(kept)

    def texts(self, rows: Dataset) -> list[tuple[str, ...]]:
        """The text, or prompt and completion, or all that is said."""
        if self.settings.messages is not None:
            return [tuple(str(said["content"]) for said in messages) for messages in rows["messages"][:]]
        return list(zip(*(rows[name][:] for name in self.columns), strict=True))

    def corpus(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Iterable[str]:
        """Texts, prompts with their completions, or conversations as the chat template writes them."""
        if self.settings.messages is not None:
            return (chat_text(tokenizer, messages) for messages in rows["messages"][:])
        between = self.settings.separator if self.settings.prompt is not None else ""
        return [between.join(texts) for texts in self.texts(rows)]

    def tokenize(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """``input_ids`` and ``labels``, cut at ``max_length`` or packed into blocks of it."""
        if self.settings.messages is not None:
            check_template(tokenizer)
            encode: Callable[..., Any] = _encode_messages
            arguments: dict[str, Any] = {}
        else:
            if tokenizer.eos_token_id is None:
                raise ModelError(
                    "The model is to learn where a text ends.",
                    f"{type(tokenizer).__name__} has no end-of-text token.",
                    "Set one and save it: tokenizer.eos_token = ...; tokenizer.save_pretrained(DIR).",
                )
            encode, arguments = _encode_texts, {"pack": self.settings.pack}
            if self.settings.prompt is not None:
                check_fast(tokenizer, "A prompt is told from its completion by the place of tokens in the text.")
                encode, arguments = _encode_completions, {"separator": self.settings.separator}
        tokenized = map_texts(rows, encode, tokenizer=tokenizer, max_length=self.settings.max_length, **arguments)
        self._check_targets(tokenized)
        return tokenized

    def _check_targets(self, rows: Dataset) -> None:
        without = sum(int((batch.counts == 0).sum()) for batch in _predicted(rows))
        if without == len(rows):
            raise DataError(
                f"The rows of '{self.settings.dataset}' are to have tokens that can be predicted.",
                f"In their first {self.settings.max_length} tokens none of {len(rows)} rows has any.",
                "Raise `max_length`, or use rows with shorter prompts.",
            )
        if without:
            logger.warning("%d rows have nothing to predict within max_length.", without)

    def collator(self, tokenizer: PreTrainedTokenizerBase, *, train: bool = True) -> PadTokenLabels:
        """Pads each batch to its longest row, labels with ``-100``."""
        return PadTokenLabels(tokenizer)

    def references(self, rows: Dataset, examples: Dataset) -> NDArray[np.int64]:
        """How many tokens of each row are predicted."""
        return np.array([count for batch in _predicted(rows) for count in batch.counts], dtype=np.int64)

    def targets(self, rows: Dataset) -> list[Array]:
        """The tokens that are predicted: the first of a row never is."""
        return [ids for batch in _predicted(rows) for ids in batch.by_row()]


def _predicted(rows: Dataset) -> Iterator[Lists]:
    """The labels that count, in batches of rows: the first of a row never does."""
    for labels in list_batches(rows, "labels"):
        counted = labels.values != IGNORED
        counted[(np.cumsum(labels.counts) - labels.counts)[labels.counts > 0]] = False
        yield labels.where(counted)


def _encode_texts(
    batch: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int, pack: bool
) -> dict[str, list[Any]]:
    """Texts, each with its end; or all of them one after the other, in blocks."""
    texts = [_ended(ids, tokenizer) for ids in tokenizer(batch["text"], verbose=False)["input_ids"]]
    if pack:
        flat = list(chain.from_iterable(texts))
        texts = [flat[start : start + max_length] for start in range(0, len(flat), max_length)]
    cut = [ids[:max_length] for ids in texts]
    return {"input_ids": cut, "labels": cut}


def _encode_completions(
    batch: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int, separator: str
) -> dict[str, list[Any]]:
    """Prompt and completion as one text; a token that reaches into the completion is predicted."""
    prompts = [prompt + separator for prompt in batch["prompt"]]
    texts = [prompt + completion for prompt, completion in zip(prompts, batch["completion"], strict=True)]
    found = tokenizer(texts, return_offsets_mapping=True, verbose=False)
    rows, labels = [], []
    for prompt, ids, offsets in zip(prompts, found["input_ids"], found["offset_mapping"], strict=True):
        ended = _ended(ids, tokenizer)
        counts = [end > len(prompt) for _, end in offsets[: len(ended) - 1]] + [True]  # an end has no place in a text
        rows.append(ended[:max_length])
        labels.append([id_ if counted else IGNORED for id_, counted in zip(ended, counts, strict=True)][:max_length])
    return {"input_ids": rows, "labels": labels}


def _encode_messages(
    batch: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, list[Any]]:
    """Conversations in the tokenizer's own form; what an assistant says is predicted."""
    rows, labels = [], []
    for messages in batch["messages"]:
        ids, said = encode_chat(tokenizer, messages)
        rows.append(ids[:max_length])
        labels.append([id_ if counted else IGNORED for id_, counted in zip(ids, said, strict=True)][:max_length])
    return {"input_ids": rows, "labels": labels}


def _ended(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    end = tokenizer.eos_token_id
    return ids if ids[-1:] == [end] else [*ids, end]
