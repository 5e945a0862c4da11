"""Files of separated values: what would be misread without a word is an error, before a row is read."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from distil_nlp.errors import DataError

_LONGEST_FIELD = 2**31 - 1  # a text may be a book


class _QuoteError(DataError):
    """A field that begins with a quote, and does not end with one."""


def read_headers(files: list[Path], separator: str, opened: Callable[[Path], TextIO]) -> tuple[list[list[str]], int]:
    """Reads all rows of files for their form alone.

    In a tab-separated file whose quotes do not begin and end fields, a quote is a character like any other.

    Args:
        files: Files of one split.
        separator: What is between fields.
        opened: Opens a file as text, its line ends as they are.

    Returns:
        The names of each file's columns, and which of csv's kinds of quoting the files have.

    Raises:
        DataError: A row has more fields than the header, or a quote swallows other fields.
    """
    limit = csv.field_size_limit(_LONGEST_FIELD)
    try:
        try:
            return [_header(file, separator, opened, csv.QUOTE_MINIMAL) for file in files], csv.QUOTE_MINIMAL
        except _QuoteError:
            if separator != "\t":
                raise
        return [_header(file, separator, opened, csv.QUOTE_NONE) for file in files], csv.QUOTE_NONE
    finally:
        csv.field_size_limit(limit)


def _header(file: Path, separator: str, opened: Callable[[Path], TextIO], quoting: int) -> list[str]:
    header: list[str] = []
    line = 1
    with opened(file) as lines:
        rows = csv.reader(lines, delimiter=separator, quoting=quoting, strict=True)  # type: ignore[arg-type]
        try:
            for row in rows:
                header = header or row
                _check_row(row, header, f"'{file}', line {line}", separator)
                line = rows.line_num + 1
        except csv.Error as error:
            raise _QuoteError(
                f"Cannot read the row of '{file}' that begins in line {line}.",
                f"A field that begins with a quote must end with one: {error}.",
                'Take the quote away, or write the field as "a ""quoted"" word".',
            ) from error
    return header


def _check_row(row: list[str], header: list[str], where: str, separator: str) -> None:
    if len(row) > len(header):
        raise DataError(
            f"Cannot tell which column is which in {where}.",
            f"The row has {len(row)} fields, and the header {len(header)}.",
            "Put a field that holds the separator in quotes, or take away what is too many.",
        )
    if separator == "\t" and any("\t" in field and ("\n" in field or "\r" in field) for field in row):
        raise DataError(
            f"Cannot tell where a field ends in {where}.",
            "Between its quotes there are a tab and a line end.",
            "Take stray quotes away, or tabs and line ends out of the text.",
        )
