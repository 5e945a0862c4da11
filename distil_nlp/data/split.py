"""Splits by a hash of the text: the same rows in any order, and no text in two splits."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

SPLITS = ("train", "validation", "test")


def text_key(*texts: str) -> bytes:
    """Returns the sha1 of the texts that make a row, with case folded and white space collapsed."""
    return _sha1([" ".join(part.casefold().split()) for part in texts])


def content_key(*texts: str) -> bytes:
    """Returns the sha1 of the letters, marks and numbers of texts, so that ``It's`` is also found as ``it 's``.

    Signs count where a text has nothing else. It tells whether a text is held out, where one too many is no loss.
    """
    contents = (unicodedata.normalize("NFKC", part).casefold() for part in texts)
    return _sha1([part.translate(_CONTENT) or part for part in contents])


class _Content(dict[int, int | None]):
    """Letters, marks and numbers as they are and no other character, as ``str.translate`` takes it; found once each."""

    def __missing__(self, character: int) -> int | None:
        kept = self[character] = character if unicodedata.category(chr(character))[0] in "LMN" else None
        return kept


_CONTENT = _Content()


def _sha1(parts: Sequence[str]) -> bytes:
    return hashlib.sha1("\x1f".join(parts).encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()


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


def unknown_rows(
    keys: Iterable[bytes], known: Mapping[str, set[bytes]], *, once: str | None = None
) -> tuple[list[int], Counter[str]]:
    """Returns the rows whose texts are not known, in their order, and how many are, by reason.

    Args:
        keys: :func:`content_key` of each row.
        known: Keys to leave out, by the reason for it.
        once: The reason for which a key that an earlier row has is left out, too; None to keep such rows.
    """
    rows, left_out = [], Counter[str]()
    seen: set[bytes] = set()
    for row, key in enumerate(keys):
        reason = next((reason for reason, found in known.items() if key in found), None)
        if reason is None and once is not None and key in seen:
            reason = once
        if reason is None:
            rows.append(row)
            seen.add(key)
        else:
            left_out[reason] += 1
    return rows, left_out


def missing_fractions(present: Sequence[str], fractions: Mapping[str, float]) -> dict[str, float]:
    """Returns how the training rows divide when the splits that are not ``present`` are carved from them."""
    carved = {name: fractions[name] for name in SPLITS[1:] if name not in present}
    return {"train": 1.0 - sum(carved.values()), **carved}
