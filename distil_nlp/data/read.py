"""Files, folders and Hub ids, to rows with named columns, in whatever splits they have."""

from __future__ import annotations

import codecs
import errno
import glob
import gzip
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import datasets
from datasets import Dataset

from distil_nlp.data.conll import read_conll
from distil_nlp.data.separated import read_headers
from distil_nlp.data.split import SPLITS
from distil_nlp.errors import DataError, near_match
from distil_nlp.references import HubReference, hub_access, resolve

_BUILDERS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".txt": "text",
    ".conll": "conll",
}
_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
_SHARD = re.compile(r"-\d+-of-\d+$")


class DataSettings(Protocol):
    """What reading rows needs of a recipe's ``task``; ``config`` and ``revision`` are for Hub ids."""

    @property
    def dataset(self) -> str: ...
    @property
    def config(self) -> str | None: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def sha256(self) -> str | None: ...
    @property
    def encoding(self) -> str: ...
    @property
    def split_names(self) -> Mapping[str, str] | None: ...


@dataclass
class RawData:
    """Rows as found.

    Attributes:
        splits: By name: ``train``, and ``validation`` and ``test`` where the data has them.
        files: What was read, if it was files.
        label_names: The names of the label ids, where a ``meta.json`` beside the files gives them.
    """

    splits: dict[str, Dataset]
    files: list[Path] = field(default_factory=list)
    label_names: list[str] | None = None


def read(task: DataSettings, columns: Mapping[str, str], progress: Callable[[str], None]) -> RawData:
    """Reads the task's rows.

    Args:
        task: Where they are.
        columns: The column for each key of the recipe that names one.
        progress: Called with one line for each step that takes time.

    Raises:
        UnresolvedReferenceError: There is no such data, or it cannot be had now.
        DataError: It cannot be read as what it is said to be, or lacks a column.
    """
    if len(set(columns.values())) < len(columns):
        raise DataError(
            "The recipe's task reads one column twice.",
            f"Its {' and '.join(columns)} are {', '.join(columns.values())}.",
            "Name a column of its own for each.",
        )
    source = resolve(task.dataset, sha256=task.sha256, revision=task.revision, kind="data", progress=progress)
    if isinstance(source, HubReference):
        return _read_hub(source, task, columns)
    if task.config is not None:
        raise DataError(
            f"Config '{task.config}' was asked of '{task.dataset}'.",
            "Only data sets on the Hub have configs.",
        )
    files = _split_files(source, task) if source.is_dir() else {"train": [source]}
    read_files = [file for shards in files.values() for file in shards]
    splits = {split: _read_files(shards, split, task, columns) for split, shards in files.items()}
    return RawData(splits, read_files, _meta_label_names(source) if source.is_dir() else None)


def _read_hub(source: HubReference, task: DataSettings, columns: Mapping[str, str]) -> RawData:
    with hub_access(source):
        try:
            found = datasets.load_dataset(source.name, task.config, revision=source.revision)
        except ValueError as error:  # an unknown config, or none given where there are several
            raise DataError(
                f"Cannot load '{source}' from the Hub.",
                str(error),
                "Name one of its configs as `config`, beside `dataset`.",
            ) from error
    names, splits = _ours(task), {}
    for name, rows in found.items():
        if (split := names.get(str(name))) is not None:
            splits[split] = _with_columns(rows, str(source), columns)
    _check_split_names(str(source), task, map(str, found))
    if "train" not in splits:
        raise DataError(f"'{source}' has no split 'train'.", f"Its splits are {', '.join(map(str, found))}.")
    return RawData(splits)


def _ours(task: DataSettings) -> Mapping[str, str]:
    """Which split a name stands for: the recipe says it, or the usual names do."""
    return {theirs: ours for ours, theirs in task.split_names.items()} if task.split_names else _SPLIT_NAMES


def _check_split_names(where: str, task: DataSettings, found: Iterable[str]) -> None:
    names = set(found)
    for theirs in (task.split_names or {}).values():
        if theirs not in names:
            raise DataError(
                f"'{where}' has no split '{theirs}'.",
                near_match(theirs, names),
                "Correct `split_names` in the task (of `unlabelled`, its `split`).",
            )


def _kind(file: Path) -> tuple[str, str]:
    """Returns the name without suffixes, and the suffix that says the format (``.csv`` of ``a.csv.gz``)."""
    name = file.name[: -len(".gz")] if file.name.lower().endswith(".gz") else file.name
    return Path(name).stem, Path(name).suffix.lower()


def _open(file: Path) -> gzip.GzipFile | BinaryIO:
    return gzip.open(file) if file.name.lower().endswith(".gz") else file.open("rb")


def _split_files(folder: Path, task: DataSettings) -> dict[str, list[Path]]:
    found: dict[str, dict[tuple[str, str], list[Path]]] = {}
    names, stems = _ours(task), set()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        stem, suffix = _kind(file)
        stem = _SHARD.sub("", stem)
        stems |= {stem} if suffix in _BUILDERS else set()
        if suffix in _BUILDERS and stem in names:
            found.setdefault(names[stem], {}).setdefault((stem, suffix), []).append(file)
    _check_split_names(str(folder), task, stems)
    asked = f"Cannot read '{folder}' as data."
    if "train" not in found:
        listed = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        raise DataError(
            asked,
            f"It has no train{', '.join([*_BUILDERS][:-1])} or {[*_BUILDERS][-1]} (or one of them .gz), only {listed}.",
            "Name the files train, validation and test, or name the one file to read and split.",
        )
    for split, groups in found.items():
        if len(groups) > 1:
            files = [file.name for shards in groups.values() for file in shards]
            raise DataError(asked, f"It has several files for '{split}': {', '.join(files)}.", "Keep one of them.")
    return {split: next(iter(found[split].values())) for split in SPLITS if split in found}


def _read_files(files: list[Path], split: str, task: DataSettings, columns: Mapping[str, str]) -> Dataset:
    _, suffix = _kind(files[0])
    if suffix not in _BUILDERS:
        raise DataError(
            f"Cannot read '{files[0]}' as data.",
            f"Its suffix is '{suffix}'.",
            f"Use one of {', '.join(_BUILDERS)} (or one of them .gz).",
        )
    builder, options = _BUILDERS[suffix], {}
    if builder == "text" and "tokens" in columns:
        builder = "conll"
    if builder != "parquet":
        for file in files:
            check_encoding(file, task.encoding)
        options["encoding"] = task.encoding
    if builder == "conll":
        return _with_columns(_read_conll(files, task.encoding, columns), str(files[0]), columns)
    if builder == "csv":
        options |= _csv_options(files, "\t" if suffix == ".tsv" else ",", task.encoding, columns)
    try:
        rows = datasets.load_dataset(
            builder, data_files={split: [glob.escape(str(file)) for file in files]}, split=split, **options
        )
    except (datasets.exceptions.DatasetsError, ValueError, OSError) as error:
        raise _malformed(files, error) from error
    rows = _with_columns(rows, str(files[0]), columns)
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
        _check_columns([name.lstrip("\ufeff") for name in header], str(file), columns)
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


def _with_columns(rows: Dataset, where: str, columns: Mapping[str, str]) -> Dataset:
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


def _meta_label_names(folder: Path) -> list[str] | None:
    """Reads ``{"label_names": [...]}`` of the folder's ``meta.json``, if it is there."""
    file = folder / "meta.json"
    if not file.is_file():
        return None
    try:
        names = json.loads(file.read_text(encoding="utf-8")).get("label_names")
    except (ValueError, AttributeError) as error:
        raise DataError(f"Cannot read '{file}'.", str(error), "Correct it, or take it away.") from error
    if names is None:
        return None
    if not isinstance(names, list) or len(set(names)) < len(names) or not all(isinstance(n, str) for n in names):
        raise DataError(f"Cannot use the label_names of '{file}'.", f"They are {names!r}.", "List each name once.")
    return names
