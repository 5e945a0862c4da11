"""Files of one split in any format, to rows with the task's columns."""

from __future__ import annotations

import codecs
import errno
import glob
import gzip
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import datasets
from datasets import Dataset

from distil_nlp.data.conll import read_conll
from distil_nlp.data.separated import read_headers
from distil_nlp.errors import DataError, near_match

BUILDERS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".txt": "text",
    ".conll": "conll",
}


def kind_of(file: Path) -> tuple[str, str]:
    """Returns the name without suffixes, and the suffix that says the format (``.csv`` of ``a.csv.gz``)."""
    name = file.name[: -len(".gz")] if file.name.lower().endswith(".gz") else file.name
    return Path(name).stem, Path(name).suffix.lower()


def _open(file: Path) -> gzip.GzipFile | BinaryIO:
    return gzip.open(file) if file.name.lower().endswith(".gz") else file.open("rb")


def read_files(files: list[Path], split: str, encoding: str, columns: Mapping[str, str]) -> Dataset:
    """Reads files of one format, for one split.

    Args:
        files: The files.
        split: The split's name.
        encoding: Of files of text.
        columns: The column for each key of the recipe that names one.

    Raises:
        DataError: They cannot be read as what they are said to be, or lack a column.
    """
    _, suffix = kind_of(files[0])
    if suffix not in BUILDERS:
        raise DataError(
            f"Cannot read '{files[0]}' as data.",
            f"Its suffix is '{suffix}'.",
            f"Use one of {', '.join(BUILDERS)} (or one of them .gz).",
        )
    builder, options = BUILDERS[suffix], {}
    if builder == "text" and "tokens" in columns:
        builder = "conll"
    if builder != "parquet":
        for file in files:
            check_encoding(file, encoding)
        options["encoding"] = encoding
    if builder == "conll":
        return with_columns(_read_conll(files, encoding, columns), str(files[0]), columns)
    if builder == "csv":
        marked = codecs.lookup(encoding).name == "utf-8"  # a mark of it may stand in front, as spreadsheets write
        options["encoding"] = "utf-8-sig" if marked else encoding
        options |= _csv_options(files, "\t" if suffix == ".tsv" else ",", options["encoding"], columns)
    try:
        rows = datasets.load_dataset(
            builder, data_files={split: [glob.escape(str(file)) for file in files]}, split=split, **options
        )
    except (datasets.exceptions.DatasetsError, ValueError, OSError) as error:
        raise _malformed(files, error) from error
    rows = with_columns(rows, str(files[0]), columns)
    if builder == "json":
        _check_dates(rows, str(files[0]), columns)
    return rows


def _check_dates(rows: Dataset, where: str, columns: Mapping[str, str]) -> None:
    """Refuses texts that were read as points in time, as those are that are all written like 2020-03-01."""
    for key, column in columns.items():
        if "timestamp[" in str(rows.features[column]):
            raise DataError(
                f"The column '{column}' of '{where}' is to hold what stands there (`{key}`).",
                "Its texts are all dates, which are read from JSON as points in time.",
                "Save the rows as csv or parquet, where a text stays a text.",
            )


def _read_conll(files: list[Path], encoding: str, columns: Mapping[str, str]) -> Dataset:
    rows: dict[str, list[list[str]]] = {columns.get(key, key): [] for key in ("tokens", "tags")}
    for file in files:
        with io.TextIOWrapper(_open(file), encoding=encoding) as lines:
            sentences = read_conll(lines, str(file), tagged="tags" in columns)
            for column, values in zip(rows.values(), sentences, strict=True):
                column += values
    return Dataset.from_dict(rows)


def _csv_options(files: list[Path], separator: str, encoding: str, columns: Mapping[str, str]) -> dict[str, Any]:
    """Reads the task's columns only, as the text they are: 007, NA and None stay what they are."""
    wanted = list(columns.values())
    headers, quoting = read_headers(
        files, separator, lambda file: io.TextIOWrapper(_open(file), encoding=encoding, newline="")
    )
    for file, header in zip(files, headers, strict=True):
        _check_columns(header, str(file), columns)
    as_text = {"converters": dict.fromkeys(wanted, str), "na_filter": False}
    return {"sep": separator, "quoting": quoting, "usecols": wanted, **as_text}


def _malformed(files: list[Path], error: BaseException) -> DataError:
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    full = isinstance(cause, OSError) and cause.errno == errno.ENOSPC
    return DataError(
        f"Cannot read {', '.join(map(str, files))}.",
        f"{type(cause).__name__}: {cause}",
        "Free some space, or set HF_HOME to a folder on a disk that has it: rows are cached there."
        if full
        else "Check that the file is whole, and that its suffix says what it is.",
    )


def check_encoding(file: Path, encoding: str) -> None:
    """Raises DataError, with line and byte, unless the whole text file has the encoding."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line, read = 1, 0
    try:
        with _open(file) as stream:
            for chunk in stream:
                read += len(chunk)
                line += decoder.decode(chunk).count("\n")
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        wrong, position = error.object[error.start], read - len(error.object) + error.start
        raise DataError(
            f"Cannot read '{file}' as {encoding}.",
            f"Line {line} has the byte 0x{wrong:02x} at byte {position} of the file: {error.reason}.",
            "Say which encoding the file has (`encoding: latin-1`, say, or cp1252), or save it as UTF-8.",
        ) from error
    except (OSError, EOFError) as error:
        raise _malformed([file], error) from error


def with_columns(rows: Dataset, where: str, columns: Mapping[str, str]) -> Dataset:
    """Keeps the task's columns.

    Raises:
        DataError: There is none of some name.
    """
    _check_columns(rows.column_names, where, columns)
    return rows.select_columns(list(columns.values()))


def _check_columns(found: Iterable[str], where: str, columns: Mapping[str, str]) -> None:
    names = list(found)
    for key, column in columns.items():
        if column not in names:
            raise DataError(
                f"'{where}' has no column '{column}'.",
                near_match(column, names),
                f"Correct `{key}` in the recipe's task, or the file's header.",
            )
