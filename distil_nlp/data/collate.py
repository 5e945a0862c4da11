"""Batches of what models read, out of rows that hold more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchEncoding, PreTrainedTokenizerBase
from transformers.data.data_collator import pad_without_fast_tokenizer_warning

from distil_nlp.signals import IGNORED

Row = Mapping[str, Any]


class OnlyColumns:
    """Shows a collator some columns of the rows: others may be lists of any length, which nothing pads.

    Args:
        collator: Makes a batch of rows.
        columns: Those that it may see, where rows have them.
    """

    def __init__(self, collator: Callable[[list[dict[str, Any]]], Any], columns: Iterable[str]) -> None:
        self.collator, self.columns = collator, tuple(columns)

    def __call__(self, rows: Sequence[Row]) -> Any:
        """A batch."""
        return self.collator([{name: row[name] for name in self.columns if name in row} for row in rows])


class PadRight:
    """Pads each batch to its longest row, behind the text whatever the tokenizer's side: positions in it stay right.

    Args:
        tokenizer: The rows' tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def __call__(self, rows: Sequence[Row]) -> BatchEncoding:
        """A batch."""
        padded: BatchEncoding = pad_without_fast_tokenizer_warning(
            self.tokenizer, rows, padding_side="right", return_tensors="pt"
        )
        return padded


class PadTokenLabels:
    """Pads ``input_ids``, and ``labels`` that go with them token by token, behind the text.

    What is padding is known by the length of rows, not by its id: many decoders pad with the end of text, which is to
    be learned where a text ends.

    Args:
        tokenizer: The rows' tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.padding = {"input_ids": int(tokenizer.pad_token_id or 0), "attention_mask": 0, "labels": IGNORED}

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """A batch, ``[rows, tokens]`` each."""
        whole = [{**row, "attention_mask": torch.ones(len(row["input_ids"]), dtype=torch.long)} for row in rows]
        return {
            name: pad_sequence([torch.as_tensor(row[name]) for row in whole], batch_first=True, padding_value=value)
            for name, value in self.padding.items()
        }
