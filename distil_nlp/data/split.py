"""Splits by a hash of the text: the same rows in any order, and no text in two splits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

SPLITS = ("train", "validation", "test")


def text_key(text: str, text_pair: str | None = None) -> bytes:
    """Returns the sha1 of the text (and of its pair), with case folded and white space collapsed."""
    texts = [text] if text_pair is None else [text, text_pair]
    normalised = "\x1f".join(" ".join(part.casefold().split()) for part in texts)
    return hashlib.sha1(normalised.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()


def assign_splits(keys: Sequence[bytes], fractions: Mapping[str, float]) -> dict[str, list[int]]:
    """Returns the rows of each split, in their own order.

    A key, read as a number in [0, 1), falls into the split whose share of that interval holds it, the shares
    lying in the order of ``fractions``. So sizes are about as asked, and a split depends on the text alone.

    Args:
        keys: :func:`text_key` of each row.
        fractions: The share of each split; they sum to 1.
    """
    rows: dict[str, list[int]] = {name: [] for name in fractions}
    *names, last = fractions
    for row, key in enumerate(keys):
        position, end = int.from_bytes(key[:8], "big") / 2**64, 0.0
        for name in names:
            end += fractions[name]
            if position < end:
                rows[name].append(row)
                break
        else:
            rows[last].append(row)
    return rows


def missing_fractions(present: Sequence[str], fractions: Mapping[str, float]) -> dict[str, float]:
    """Returns how the training rows divide when the splits that are not ``present`` are carved from them."""
    carved = {name: fractions[name] for name in SPLITS[1:] if name not in present}
    return {"train": 1.0 - sum(carved.values()), **carved}
