"""Tokens that are hidden from the model, to be told from those around them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForMaskedLM, DataCollatorForLanguageModeling, PreTrainedTokenizerBase

from distil_nlp.data.align import check_fast
from distil_nlp.data.batches import list_batches, map_texts
from distil_nlp.data.collate import PadTokenLabels, Row
from distil_nlp.data.tasks.base import IGNORED, TASKS, Array
from distil_nlp.data.tasks.language_modeling import LanguageModeling
from distil_nlp.errors import ModelError

_ASKED = "The tokenizer is to hide tokens, and the model to tell them."


@TASKS.register("fill-mask")
class FillMask(LanguageModeling):
    """Masked language modelling: other tokens are hidden in each batch of training, the same ones in each evaluation.

    References:
        Devlin et al. (2019), arXiv:1810.04805, section 3.1 (15 % of tokens: 80 % of them become the mask, 10 % another
        token, 10 % stay), as in transformers' collator; of whole words all become the mask.
    """

    auto_class = AutoModelForMaskedLM
    keys = ("text",)
    metrics = ("perplexity", "masked_accuracy")

    @property
    def text_columns(self) -> dict[str, str]:
        """``text``: no row has a label."""
        return self.columns

    def texts(self, rows: Dataset) -> list[tuple[str, ...]]:
        """The text."""
        return [(text,) for text in rows["text"][:]]

    def tokenize(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """``input_ids``, which of them are special, where they stand in the text, and how many evaluation hides."""
        if tokenizer.mask_token is None:
            raise ModelError(_ASKED, f"{type(tokenizer).__name__} has no mask token.", "Use a masked language model.")
        if self.settings.whole_words:
            check_fast(tokenizer, _ASKED)
            _check_words(tokenizer)
        return map_texts(
            rows,
            _encode,
            tokenizer=tokenizer,
            max_length=self.settings.max_length,
            pack=self.settings.pack,
            whole_words=self.settings.whole_words,
            collator=self.collator(tokenizer, train=False),
        )

    def collator(self, tokenizer: PreTrainedTokenizerBase, *, train: bool = True) -> MaskTokens:
        """Hides tokens and pads."""
        return MaskTokens(
            tokenizer,
            probability=self.settings.mask_probability,
            whole_words=self.settings.whole_words,
            fixed=not train,
        )

    def references(self, rows: Dataset, examples: Dataset) -> NDArray[np.int64]:
        """How many tokens of each row are hidden."""
        return np.asarray(rows["hidden"][:], dtype=np.int64)

    def targets(self, rows: Dataset) -> list[Array]:
        """All tokens that could be hidden."""
        columns = (list_batches(rows, name) for name in ("input_ids", "special_tokens_mask"))
        pairs = zip(*columns, strict=True)
        return [row for ids, special in pairs for row in ids.where(special.values == 0).by_row()]


class MaskTokens:
    """Hides tokens of rows, row by row, and pads them.

    Args:
        tokenizer: The rows' tokenizer.
        probability: Of a token, or word, to be hidden.
        whole_words: Whether all tokens of a word are hidden or none.
        fixed: Whether the tokens of a row alone decide which of them are hidden, so that each call hides the same.

    Attributes:
        columns: What it reads of rows, beside what the model does.
    """

    columns = ("special_tokens_mask", "offset_mapping")

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, probability: float, whole_words: bool, fixed: bool
    ) -> None:
        replaced: dict[str, Any] = {"mask_replace_prob": 1.0, "random_replace_prob": 0.0} if whole_words else {}
        self.collator = DataCollatorForLanguageModeling(
            tokenizer, mlm_probability=probability, whole_word_mask=whole_words, **replaced
        )
        self.tokenizer, self.fixed, self.pad = tokenizer, fixed, PadTokenLabels(tokenizer)

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """A batch, ``[rows, tokens]`` each; ``labels`` are ``-100`` but for hidden tokens."""
        return self.pad([dict(zip(("input_ids", "labels"), self.hide(row), strict=True)) for row in rows])

    def hide(self, row: Row) -> tuple[Tensor, Tensor]:
        """A row's ids with some of them hidden, and its labels, ``[tokens]`` each."""
        ids = torch.tensor([row["input_ids"]])  # [1, tokens]
        if self.fixed:
            tokens = " ".join(self.tokenizer.convert_ids_to_tokens(row["input_ids"]))  # whatever ids they have
            self.collator.generator = torch.Generator().manual_seed(zlib.crc32(tokens.encode()))
        offsets = row.get("offset_mapping")
        hidden, labels = self.collator.torch_mask_tokens(
            ids,
            special_tokens_mask=torch.tensor([row["special_tokens_mask"]]),
            offset_mapping=None if offsets is None else torch.tensor([offsets]),
        )
        return hidden[0], labels[0]


def _check_words(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses a tokenizer that does not cut a text into words before anything else: whole texts would be hidden."""
    if len({*tokenizer("a a", add_special_tokens=False).word_ids()}) < 2:
        raise ModelError(
            "Whole words are to be hidden.",
            f"The tokens of {type(tokenizer).__name__} do not show where a word ends.",
            "Leave out `whole_words`.",
        )


def _encode(
    batch: dict[str, list[Any]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    pack: bool,
    whole_words: bool,
    collator: MaskTokens,
) -> dict[str, list[Any]]:
    """Texts, or blocks of all texts joined by the separator, between the special tokens that the tokenizer adds."""
    before, after = _around(tokenizer)
    room = max(max_length - len(before) - len(after), 1)
    found = tokenizer(batch["text"], add_special_tokens=False, verbose=False)
    places = [
        _places(found.word_ids(row)) if whole_words else [(0, 0)] * len(ids)
        for row, ids in enumerate(found["input_ids"])
    ]
    texts = [list(zip(ids, where, strict=True)) for ids, where in zip(found["input_ids"], places, strict=True)]
    if pack:
        separator = [(id_, (0, 0)) for id_ in [tokenizer.sep_token_id] if id_ is not None]
        flat = list(chain.from_iterable((*(separator if at else ()), *text) for at, text in enumerate(texts)))
        texts = [flat[start : start + room] for start in range(0, len(flat), room)]
    special = set(tokenizer.all_special_ids)
    ids = [[*before, *(id_ for id_, _ in text[:room]), *after] for text in texts]
    encoded: dict[str, list[Any]] = {
        "input_ids": ids,
        "special_tokens_mask": [[int(id_ in special) for id_ in row] for row in ids],
    }
    if whole_words:
        empty = (0, 0)
        encoded["offset_mapping"] = [
            [*(empty for _ in before), *(where for _, where in text[:room]), *(empty for _ in after)] for text in texts
        ]
    rows = (dict(zip(encoded, row, strict=True)) for row in zip(*encoded.values(), strict=True))
    return {**encoded, "hidden": [int((collator.hide(row)[1] != IGNORED).sum()) for row in rows]}


def _places(word_ids: list[int | None]) -> list[tuple[int, int]]:
    """Where tokens would stand, were each a character and a space between words: transformers sees a word's end by it.

    Their own places do not do: words of some scripts have no space between them, and bytes of one character one place.
    """
    starts = (place + (word or 0) for place, word in enumerate(word_ids))
    return [(start, start + 1) for start in starts]


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before and after a text."""
    whole, bare = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
    starts = (at for at in range(len(whole)) if whole[at : at + len(bare)] == bare)
    start = next(starts, 0)
    return whole[:start], whole[start + len(bare) :]
