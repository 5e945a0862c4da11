"""Files of separated values with fields too many, or with quotes out of place."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from distil_nlp.data.read import read
from distil_nlp.errors import DataError
from distil_nlp.recipe.tasks import TextClassificationSection

COLUMNS = {"text": "text", "label": "label"}


def rows_of(path: Path, content: str, **settings: Any) -> list[tuple[str, str]]:
    data = content.encode(settings.get("encoding", "utf-8"))
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    section = TextClassificationSection(name="text-classification", dataset=str(path), **settings)
    rows = read(section, COLUMNS, lambda line: None).splits["train"]
    return list(zip(rows["text"][:], rows["label"][:], strict=True))


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.csv", "text,label,source\nt 0,0,s,\nt 1,1,s,\n", 2),  # a comma at the end of each row
        ("a.csv.gz", "\ntext,label,source\n\nhello, you,0,s\nt 1,1,s\n", 4),
        ("a.csv", 'text,label,source\n"t\n0",0,s\nhello, you,1,s\n', 4),  # in a later row
        ("a.tsv", "text\tlabel\tsource\nt 0\t0\ts\t\n", 2),
        ("a.tsv", '"text\tlabel\tsource\n"t 0\t0\ts\t\n', 2),
    ],
)
def test_a_row_with_more_fields_than_the_header_is_refused(tmp_path: Path, name: str, content: str, line: int) -> None:
    with pytest.raises(DataError, match=rf"(?s){name}', line {line}\..*4 fields, and the header 3"):
        rows_of(tmp_path / name, content)


@pytest.mark.parametrize("quote_at", [range(0, 24, 6), [3], [4, 5]])
def test_a_stray_quote_in_a_tsv_is_a_character(tmp_path: Path, quote_at: Any) -> None:
    rows = [(f'"text {i}' if i in quote_at else f"text {i}", str(i % 2)) for i in range(24)]
    assert rows_of(tmp_path / "a.tsv", "text\tlabel\n" + "".join(f"{a}\t{b}\n" for a, b in rows)) == rows


@pytest.mark.parametrize(("quotes", "line"), [(range(0, 24, 6), 2), ([3], 5)])
def test_a_stray_quote_in_a_csv_is_refused(tmp_path: Path, quotes: Any, line: int) -> None:
    rows = "".join('"' * (i in quotes) + f"text {i},{i % 2}\n" for i in range(24))
    with pytest.raises(DataError, match=rf"(?s)a\.csv' that begins in line {line}\..*must end with one"):
        rows_of(tmp_path / "a.csv", "text,label\n" + rows)


def test_quotes_of_a_tsv_that_swallow_a_row_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)a\.tsv', line 3\..*a tab and a line end"):
        rows_of(tmp_path / "a.tsv", 'text\tlabel\nfine\t0\n"one\t0\ntwo"\t1\n')


# Twin: pandas' own writer, which quotes what has to be quoted, or all there is.
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t"), ("a.csv.gz", ",")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_what_is_well_quoted_is_read_as_it_was(
    tmp_path: Path, name: str, separator: str, quoting: Any, encoding: str
) -> None:
    texts = ['"quoted" at first', 'a "word"', f"one{separator}two", "two\nlines", "a\u2028b\x85c", "x" * 200_000]
    texts += ["commas, and\nlines"] if separator == "," else []
    rows = [(text, str(i % 2)) for i, text in enumerate(texts)]
    frame = pd.DataFrame(rows, columns=["text", "label"])
    content = frame.to_csv(sep=separator, quoting=quoting, index=False)
    limit = csv.field_size_limit()
    assert rows_of(tmp_path / name, content, encoding=encoding) == rows
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize("header", ["text,label", '"text","label"'])
def test_a_mark_of_utf_8_in_front(tmp_path: Path, header: str) -> None:
    """As spreadsheets write it."""
    assert rows_of(tmp_path / "a.csv", f"\ufeff{header}\na,b\n") == [("a", "b")]


def test_short_rows_and_blank_lines_are_read_as_they_were(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "a.csv", "text,label\r\n\r\none\r\ntwo,1\r\n") == [("one", ""), ("two", "1")]
