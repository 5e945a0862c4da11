"""Files, folders and Hub ids, to rows with named columns, in whatever splits they have."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import datasets
from datasets import Dataset

from distil_nlp.data.formats import BUILDERS, kind_of, read_files, with_columns
from distil_nlp.data.split import SPLITS
from distil_nlp.errors import DataError, near_match
from distil_nlp.references import HubReference, hub_access, resolve

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
    every = [file for shards in files.values() for file in shards]
    splits = {split: read_files(shards, split, task.encoding, columns) for split, shards in files.items()}
    return RawData(splits, every, _meta_label_names(source) if source.is_dir() else None)


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
            splits[split] = with_columns(rows, str(source), columns)
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


def _split_files(folder: Path, task: DataSettings) -> dict[str, list[Path]]:
    found: dict[str, dict[tuple[str, str], list[Path]]] = {}
    names, stems = _ours(task), set()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        stem, suffix = kind_of(file)
        stem = _SHARD.sub("", stem)
        stems |= {stem} if suffix in BUILDERS else set()
        if suffix in BUILDERS and stem in names:
            found.setdefault(names[stem], {}).setdefault((stem, suffix), []).append(file)
    _check_split_names(str(folder), task, stems)
    asked = f"Cannot read '{folder}' as data."
    if "train" not in found:
        listed = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        raise DataError(
            asked,
            f"It has no train{', '.join([*BUILDERS][:-1])} or {[*BUILDERS][-1]} (or one of them .gz), only {listed}.",
            "Name the files train, validation and test, or name the one file to read and split.",
        )
    for split, groups in found.items():
        if len(groups) > 1:
            files = [file.name for shards in groups.values() for file in shards]
            raise DataError(asked, f"It has several files for '{split}': {', '.join(files)}.", "Keep one of them.")
    return {split: next(iter(found[split].values())) for split in SPLITS if split in found}


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
