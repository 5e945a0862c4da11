"""Files of every format: their encoding, what is broken, and what would be read as something else."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from tiny_files import load, rows_of, write, write_csv, write_jsonl

from distil_nlp.data.formats import check_encoding
from distil_nlp.data.split import SPLITS, text_key
from distil_nlp.errors import DataError


@pytest.mark.parametrize(
    "name", ["a.csv", "a.csv.gz", "a.tsv", "a.json", "a.jsonl", "a.jsonl.gz", "a.parquet", "[1] b*.csv"]
)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    rows = rows_of(60)
    splits, summary = load(write(tmp_path / name, rows))
    found = {row["text"]: row["label"] for split in splits.values() for row in split}
    assert found == {row["text"]: ("bad", "good").index(row["label"]) for row in rows}
    assert summary.label_names == splits["test"].features["label"].names == ["bad", "good"]
    assert summary.rows == {name: len(splits[name]) for name in SPLITS}
    assert list(summary.sha256) == [name]
    # The split depends on the texts alone, so every format has the same one.
    assert [row["text"] for row in splits["test"]] == [row["text"] for row in rows if assigned(row["text"]) == "test"]


def assigned(text: str) -> str:
    """Twin implementation: the first 8 bytes of the sha1 as a fraction of all."""
    position = int(text_key(text).hex()[:16], 16) / 16**16
    return "train" if position < 0.8 else "validation" if position < 0.9 else "test"


def test_csv_values_stay_text(tmp_path: Path) -> None:
    texts = ["NA", "None", "1e5", "null", "nan", "true", *(f"00{i}" for i in range(60))]
    rows = [{"text": text, "label": ("NA", "null")[i % 2]} for i, text in enumerate(texts)]
    splits, summary = load(write_csv(tmp_path / "a.csv", rows))
    assert {row["text"] for split in splits.values() for row in split} == set(texts)
    assert (summary.label_names, summary.dropped) == (["NA", "null"], {})


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", rows_of(60))
    first = load(path).summary
    write_csv(path, rows_of(90))
    second = load(path).summary
    assert (sum(first.rows.values()), sum(second.rows.values())) == (60, 90)
    assert first.sha256 != second.sha256


@pytest.mark.parametrize("gzipped", [False, True])
def test_text_that_is_not_utf8_is_named_by_line_and_byte(tmp_path: Path, gzipped: bool) -> None:
    content = b"text,label\nplain,bad\nun caf\xe9,good\n"
    path = tmp_path / ("a.csv.gz" if gzipped else "a.csv")
    path.write_bytes(gzip.compress(content) if gzipped else content)
    with pytest.raises(DataError) as failure:
        load(path)
    message = str(failure.value)
    assert str(path) in message
    assert "Line 3 has the byte 0xe9 at byte 27" in message
    assert content[27] == 0xE9
    assert "encoding: latin-1" in message


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-8-sig"])
def test_other_encodings_are_read_as_said(tmp_path: Path, encoding: str) -> None:
    rows = [{"text": f"café {i}", "label": i % 2} for i in range(60)]
    path = write_csv(tmp_path / "a.csv", rows, encoding=encoding)
    splits, _ = load(path, encoding=encoding)
    assert {row["text"] for split in splits.values() for row in split} == {row["text"] for row in rows}


def test_a_text_that_ends_inside_a_character(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo \xe2\x82")
    with pytest.raises(DataError, match=r"Line 2 has the byte 0xe2 at byte 8"):
        check_encoding(path, "utf-8")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"text,label\na,1\nb,2,3,4\n"),
        ("a.csv.gz", b"not gzip at all"),
        ("a.csv.gz", gzip.compress(b"text,label\n" + b"a,1\n" * 1000, mtime=0)[:30]),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": \n'),
        ("a.parquet", b"not parquet"),
        ("a.csv", b""),
        ("a.xlsx", b"PK"),
    ],
)
def test_malformed_files_are_data_errors(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        load(tmp_path / name)


def test_dates_are_no_texts_in_json(tmp_path: Path) -> None:
    """pyarrow makes points in time of them, with which the way that they were written is gone."""
    rows = [{"text": f"20{i:02}-03-01", "label": i % 2} for i in range(60)]
    with pytest.raises(DataError, match=r"(?s)column 'text'.*all dates.*csv or parquet"):
        load(write_jsonl(tmp_path / "rows.jsonl", rows))
    lines = "".join(f"{row['text']},{row['label']}\n" for row in rows)
    (tmp_path / "rows.csv").write_text("text,label\n" + lines)
    assert set(load(tmp_path / "rows.csv").splits["train"]["text"]) <= {row["text"] for row in rows}
