"""Rows of arrays on disk, found by their keys."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from transformers.utils import logging

from distil_nlp.errors import TrainingError, first_line
from distil_nlp.files import crc32_of, write_whole

logger = logging.get_logger(__name__)

Array = NDArray[Any]
Row = Mapping[str, Array]

SHARD_BYTES = 64 * 2**20  # rows wait in memory until there are so many bytes of them,
SHARD_SECONDS = 30.0  # or so much time has gone by
LOOK_SECONDS = 1.0  # a folder that seems to be as it was is looked through no more often
ABANDONED_SECONDS = 3600.0  # a file that nobody finished is deleted after so much time
KEYS, COUNTS = "keys", ".counts"
_NUMPY = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I8": "i1", "U8": "u1", "BOOL": "?"}
_SHARD = re.compile(r"shard-.+-([0-9a-f]{8})\.safetensors")


class OutputStore:
    """Rows under keys, each row some named arrays ``[count, ...]`` whose count may differ from row to row.

    Rows are appended in shards, each a safetensors file with the CRC-32 of its content in its name. It gets that name
    when all of it is on disk, so that a crash, a full disk or SIGKILL loses the unfinished shard and nothing else. A
    shard is read through memory mapping, and checked against its name before its first row is given; the rows of one
    that is damaged count as not stored. A shard that cannot be read at the moment is not damaged: that is an error. Any
    number of processes may read and write at once: a shard has one writer, and never changes.

    Args:
        folder: Where shards lie; made if it is not there.
        rank: Of this process, for the names of its shards.

    Raises:
        TrainingError: if a shard cannot be read, here and wherever shards are.
    """

    def __init__(self, folder: Path, *, rank: int = 0) -> None:
        self.folder = folder
        self._writer = f"{rank}-{secrets.token_hex(4)}"
        self._shards: dict[str, _Shard] = {}
        self._damaged: set[str] = set()
        self._index: dict[bytes, tuple[_Shard, int]] = {}
        self._pending: dict[bytes, Row] = {}
        self._pending_bytes = self._written = 0
        self._oldest = self._looked = 0.0
        self._changed: int | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._delete_abandoned()
        self.refresh()

    def __len__(self) -> int:
        return len(self._index) + len(self._pending)

    @property
    def num_bytes(self) -> int:
        """Of all rows, on disk and waiting."""
        return sum(shard.num_bytes for shard in self._shards.values()) + self._pending_bytes

    def get(self, key: bytes) -> Row | None:
        """A row, or None if it is not stored."""
        waiting = self._pending.get(key)
        if waiting is not None:
            return waiting
        place = self._index.get(key)
        if place is None:
            return None
        shard, number = place
        if not shard.sound():
            self._forget(shard)
            return self.get(key)
        return _StoredRow(shard, number)

    def add(self, key: bytes, row: Row) -> None:
        """Takes in a row, unless there is one under its key; writes a shard when there is enough for one."""
        if key in self._pending or key in self._index:
            return
        if not self._pending:
            self._oldest = time.monotonic()
        self._pending[key] = row
        self._pending_bytes += row_bytes(row)
        if self._pending_bytes >= SHARD_BYTES or time.monotonic() - self._oldest >= SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes the rows that wait.

        Raises:
            TrainingError: if the disk is full, or cannot be written to. The rows that waited are lost then.
        """
        if not self._pending:
            return
        content = save(_joined(self._pending), metadata={"rows": str(len(self._pending))})
        name = f"shard-{self._writer}-{self._written:05d}-{zlib.crc32(content):08x}.safetensors"
        try:
            store_whole(self.folder / name, content)
        except TrainingError:
            self._pending, self._pending_bytes = {}, 0
            raise
        self._written += 1
        self._pending, self._pending_bytes = {}, 0
        self._open(name, checked=True)

    def refresh(self) -> None:
        """Looks for shards that have been written since, by other processes too.

        What was written in the same tick of the file system's clock as what was there is found a second later.
        """
        try:
            changed = self.folder.stat().st_mtime_ns
            if changed == self._changed and time.monotonic() - self._looked < LOOK_SECONDS:
                return
            names = set(os.listdir(self.folder))
        except OSError as error:
            raise _unreadable(self.folder, error) from error
        for name in sorted(names - self._shards.keys() - self._damaged):
            if _SHARD.fullmatch(name):
                self._open(name)
        self._changed, self._looked = changed, time.monotonic()

    def _open(self, name: str, *, checked: bool = False) -> None:
        try:
            shard = _Shard(self.folder / name, checked=checked)
            self._index_rows(shard)
        except FileNotFoundError:  # set aside by another process
            return
        except OSError as error:
            raise _unreadable(self.folder / name, error) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._set_aside(name, f"{type(error).__name__}: {error}")
            return
        self._shards[name] = shard

    def _index_rows(self, shard: _Shard) -> None:
        for number, key in enumerate(shard.keys()):
            self._index.setdefault(key, (shard, number))

    def _forget(self, shard: _Shard) -> None:
        self._set_aside(shard.path.name, "its content is not what it was written with")
        self._shards.pop(shard.path.name, None)
        self._index = {}
        for other in self._shards.values():
            self._index_rows(other)

    def _set_aside(self, name: str, why: str) -> None:
        logger.warning(f"{self.folder / name} is damaged ({why}). Its rows are computed anew; it is kept as *.damaged.")
        self._damaged.add(name)
        with suppress(OSError):  # another process has done it, or the folder is read-only
            os.replace(self.folder / name, self.folder / f"{name}.damaged")

    def _delete_abandoned(self) -> None:
        with suppress(OSError):  # another process has done it, or the next one will
            for path in self.folder.glob(".*.partial"):
                if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    path.unlink()


class _Shard:
    """One file of rows, memory-mapped."""

    def __init__(self, path: Path, *, checked: bool) -> None:
        self.path, self._sound = path, True if checked else None
        data = _mapped(path)
        self.num_bytes = len(data)
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8:start].tobytes())
        header.pop("__metadata__", None)
        self.arrays: dict[str, Array] = {}
        for name, entry in header.items():
            first, last = (start + offset for offset in entry["data_offsets"])
            if last > len(data):
                raise ValueError("it is torn")
            self.arrays[name] = data[first:last].view(_NUMPY[entry["dtype"]]).reshape(entry["shape"])
        self._ends: dict[str, Array] = {}

    def keys(self) -> list[bytes]:
        return [key.tobytes() for key in self.arrays[KEYS]]

    def sound(self) -> bool:
        """Whether the content is the one that the name tells of; looked at once.

        Raises:
            TrainingError: if the file is there, and cannot be read.
        """
        if self._sound is None:
            match = _SHARD.fullmatch(self.path.name)
            try:
                self._sound = match is not None and crc32_of(self.path) == int(match[1], 16)
            except FileNotFoundError:
                self._sound = False
            except OSError as error:
                raise _unreadable(self.path, error) from error
        return self._sound

    def rows_of(self, name: str, number: int) -> Array:
        ends = self._ends.get(name)
        if ends is None:
            ends = self._ends[name] = np.concatenate([[0], np.cumsum(self.arrays[name + COUNTS], dtype=np.int64)])
        return self.arrays[name][ends[number] : ends[number + 1]]


class _StoredRow(Mapping[str, Array]):
    """A row of a shard, whose arrays are read when they are asked for."""

    def __init__(self, shard: _Shard, number: int) -> None:
        self.shard, self.number = shard, number

    def __getitem__(self, name: str) -> Array:
        return self.shard.rows_of(name, self.number)

    def __contains__(self, name: object) -> bool:
        return name in self.shard.arrays

    def __iter__(self) -> Any:
        return (name.removesuffix(COUNTS) for name in self.shard.arrays if name.endswith(COUNTS))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _mapped(path: Path) -> Array:
    """A file's bytes, ``[size]``, memory-mapped; numpy's own way keeps a file descriptor for each file."""
    size = path.stat().st_size
    try:
        content: Array = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
    except RuntimeError as error:  # which system error it is, only its text says
        path.stat()  # whether the file has gone
        raise OSError(first_line(error)) from error
    content.flags.writeable = False
    return content


def _unreadable(path: Path, error: OSError) -> TrainingError:
    return TrainingError(
        f"A teacher's stored outputs were to be read from {path}.",
        f"It cannot be read now: {error}.",
        "Remove the cause (for too many open files a higher `ulimit -n`; the rights of the file; memory; the disk) and "
        "go on: what is stored is kept.",
    )


def row_bytes(row: Row) -> int:
    """What a row takes on disk."""
    return 16 + sum(array.nbytes + 4 for array in row.values())


def _joined(rows: Mapping[bytes, Row]) -> dict[str, Array]:
    """The arrays of a shard."""
    joined: dict[str, Array] = {KEYS: np.stack([np.frombuffer(key, dtype=np.uint8) for key in rows])}
    for name in next(iter(rows.values())):
        parts = [row[name] for row in rows.values()]
        joined[name] = np.concatenate(parts)
        joined[name + COUNTS] = np.array([len(part) for part in parts], dtype=np.int32)
    return joined


def store_whole(path: Path, content: bytes) -> None:
    """Writes a file of the store, whole or not at all.

    Raises:
        TrainingError: if the disk is full, or cannot be written to.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        raise TrainingError(
            f"A teacher's outputs were to be stored in {path.parent}.",
            f"{len(content) / 1e6:,.1f} MB cannot be written: {error}.",
            "Free some space and go on: what is stored so far is kept. To need less space, store top_k logits or use "
            "dtype='float16' or 'int8'; to need none, use the teacher without a store.",
        ) from error
