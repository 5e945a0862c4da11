"""Columns of text."""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from distil_nlp.errors import DataError


def text_column(rows: Dataset, key: str, settings: Any, *, strip: bool = True) -> list[str]:
    """The texts of a column, without white space around them; empty where there is none.

    Args:
        rows: Rows as found.
        key: The recipe's key that names the column.
        settings: The ``task`` section of the recipe.
        strip: Whether white space around them goes; not where something counts their characters.

    Raises:
        DataError: The column does not hold text.
    """
    column = getattr(settings, key)
    texts = rows[column][:]
    for row, text in enumerate(texts):
        if text is not None and not isinstance(text, str):
            raise DataError(
                f"The column '{column}' of '{settings.dataset}' is not text.",
                f"Row {row + 1} has {text!r}.",
                f"Name the right column as `{key}`.",
            )
    return [(text.strip() if strip else text) if text else "" for text in texts]
