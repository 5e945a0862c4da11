"""Columns that say which rows belong together: passages of one query, say."""

from __future__ import annotations

import hashlib
from typing import Any

from datasets import Dataset

from distil_nlp.data.labels import is_missing
from distil_nlp.errors import DataError


def group_ids(rows: Dataset, column: str) -> list[int | None]:
    """A number for each row that is the same for equal values, in any split and any run; None where there is none.

    Args:
        rows: Rows as found.
        column: The column, of texts or whole numbers.

    Raises:
        DataError: The column holds something else.
    """
    values = rows[column][:]
    for row, value in enumerate(values):
        if not is_missing(value) and (not isinstance(value, str | int) or isinstance(value, bool)):
            raise DataError(
                f"The column '{column}' does not say to which group a row belongs.",
                f"Row {row + 1} has {value!r}, and groups are named by texts or whole numbers.",
                "Name another column as `group`, or leave it out.",
            )
    known: dict[Any, int | None] = {value: None if is_missing(value) else _number(value) for value in set(values)}
    return [known[value] for value in values]


def _number(value: str | int) -> int:
    digest = hashlib.blake2b(str(value).strip().encode("utf-8", "surrogatepass"), digest_size=7).digest()
    return int.from_bytes(digest, "big")  # below 2**56


def refuse_single_rows(groups: list[int], column: str) -> None:
    """Refuses rows each of which is a group of its own.

    Args:
        groups: Of the training rows.
        column: Where they were found.

    Raises:
        DataError: There is no row that another could be compared with.
    """
    if len(set(groups)) == len(groups):
        raise DataError(
            f"The column '{column}' is to say which rows belong together.",
            f"No two of {len(groups)} training rows have the same value.",
            "Name another column as `group`, or leave it out.",
        )
