"""The rows of a batch without their padding, and what tells one from another."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from distil_nlp.errors import DataError
from distil_nlp.signals import LABEL_NAMES, Batch, valid_items, valid_tokens

Array = NDArray[Any]


@dataclass(frozen=True)
class Rows:
    """The rows of a batch.

    Attributes:
        keys: A hash of what a teacher reads of each row, padding left out.
        first: Where each row's first token is that is not padding.
        counts: Number of tokens from there to the last that is not padding.
        width: Tokens of the padded batch.
        items: ``[batch, tokens]``, which positions make a prediction that counts; None where that does not matter.
        decodes: Whether the teacher is an encoder-decoder whose predictions are at the target's tokens.
    """

    keys: list[bytes]
    first: list[int]
    counts: list[int]
    width: int
    items: NDArray[np.bool_] | None = None
    decodes: bool = False

    @property
    def item_counts(self) -> list[int]:
        """Predictions of each row that count."""
        return [] if self.items is None else [int(count) for count in self.items.sum(1)]


def rows_of(batch: Batch, input_names: Collection[str], *, item: str | None, by_item: bool) -> Rows:
    """Finds the rows of a batch, and hashes each.

    A row's key does not depend on how much it is padded, on which side, or on the other rows.

    Args:
        batch: The collated batch.
        input_names: Columns that the teacher reads. Labels are read by encoder-decoders only, whose decoder's inputs
            are made of them.
        item: What a prediction is, if predictions are wanted.
        by_item: Whether only predictions that count are stored, so that which they are belongs to the key.

    Raises:
        DataError: if padding is to make a prediction.
    """
    mask, decodes = valid_tokens(batch), item == "token" and "decoder_input_ids" in input_names
    valid: NDArray[np.bool_] = mask.cpu().numpy()
    width = valid.shape[1]
    first, ends = valid.argmax(1).tolist(), (width - valid[:, ::-1].argmax(1)).tolist()
    counts = [end - first[row] if valid[row].any() else 0 for row, end in enumerate(ends)]
    spans = [slice(start, start + count) for start, count in zip(first, counts, strict=True)]
    items = _items(batch, item, None if decodes else mask) if item in ("token", "next_token") else None
    columns, said = {"attention_mask": valid}, []
    lists: list[Sequence[Any]] = []
    for name in sorted(set(batch).intersection(input_names) - {"attention_mask", *(() if decodes else LABEL_NAMES)}):
        if isinstance(batch[name], Tensor):
            columns[name] = _plain(batch[name])
        elif _by_row(batch[name], len(valid)):
            lists.append(batch[name])
            said.append(name)
        else:
            said.append(f"{name} {batch[name]!r}")
    if by_item and items is not None:
        columns["items"] = items
    whole = {name: spans if array.shape[:2] == valid.shape else None for name, array in columns.items()}
    if decodes and items is not None:  # a decoder does not look beyond its last prediction
        ends = (items.shape[1] - items[:, ::-1].argmax(1)).tolist()
        whole |= {name: [slice(0, end) for end in ends] for name in columns if _of_target(name)}
    said += [f"{name} {array.dtype} {array.shape[2:]}" for name, array in columns.items()]
    keys = [_hash(" ".join(said), row, columns, whole, lists) for row in range(len(valid))]
    return Rows(keys, first, counts, width, items if by_item else None, decodes)


def _hash(
    said: str, row: int, columns: dict[str, Array], spans: dict[str, list[slice] | None], lists: list[Sequence[Any]]
) -> bytes:
    digest = hashlib.blake2b(said.encode(), digest_size=16)
    for values in lists:
        entry = values[row]
        plain = entry.tolist() if isinstance(entry, Tensor | np.ndarray) else entry  # an array's repr lacks digits
        digest.update(f"{plain!r}\0".encode())
    for name, array in columns.items():
        places = spans[name]
        if places is not None:
            own = array[row, places[row]]
        else:  # of the row, or else of the whole batch
            own = array[row] if array.ndim and len(array) == len(columns["attention_mask"]) else array
        digest.update(f"{own.shape}".encode())
        digest.update(np.ascontiguousarray(own).data)
    return digest.digest()


def with_right_padding(batch: Batch, rows: Rows, chosen: list[int]) -> dict[str, Any]:
    """Some rows of a batch, with what is padded on the left moved to the right.

    So that where a row stands in its batch does not change the positions that its tokens have.
    """
    some = torch.tensor(chosen)
    taken = {name: _take(value, some, len(rows.keys)) for name, value in batch.items()}
    offsets = torch.tensor([rows.first[row] for row in chosen])
    if not offsets.any():
        return taken
    places = (torch.arange(rows.width) + offsets.unsqueeze(1)) % rows.width  # [chosen, tokens]
    for name, value in taken.items():
        if isinstance(value, Tensor) and value.shape[:2] == places.shape and not (rows.decodes and _of_target(name)):
            taken[name] = value[torch.arange(len(chosen)).unsqueeze(1), places.to(value.device)]
    return taken


def _of_target(name: str) -> bool:
    return name in ("items", "labels") or name.startswith("decoder_")


def _by_row(value: Any, size: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == size


def _take(value: Any, rows: Tensor, size: int) -> Any:
    if _by_row(value, size):
        return [value[row] for row in rows.tolist()]
    if not isinstance(value, Tensor) or value.dim() == 0 or len(value) != size:
        return value
    return value if len(rows) == size else value[rows.to(value.device)]


def _plain(value: Tensor) -> Array:
    value = value.detach().cpu()
    array: Array = (value.float() if value.is_floating_point() else value.to(torch.int32)).numpy()
    return array


def _items(batch: Batch, item: str | None, mask: Tensor | None) -> NDArray[np.bool_]:
    items = valid_items(batch, item)
    if item == "next_token":
        items = F.pad(items, (0, 1))  # the last position predicts nothing
    if mask is not None and bool((items & ~mask).any()):
        raise DataError(
            "A stored teacher keeps predictions at tokens that are not padding.",
            "In this batch padding makes predictions that count: that before a row's first token, probably.",
            "Pad on the right (tokenizer.padding_side = 'right'), or set labels after padding to -100.",
        )
    found: NDArray[np.bool_] = items.cpu().numpy()
    return found
