"""Files that are written whole or not at all, and their checksums."""

from __future__ import annotations

import hashlib
import os
import secrets
import zlib
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 1 << 20


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file under another name, and renames it when all of it is on disk.

    Raises:
        OSError: What was at ``path`` is still there.
    """
    name = f".{path.name}.{secrets.token_hex(8)}.partial"  # not the pid, which is the same in many containers
    partial = path.with_name(name)
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def crc32_of(file: Path) -> int:
    """CRC-32 of a file: cheap, and enough to tell damage."""
    value = 0
    for chunk in _chunks(file):
        value = zlib.crc32(chunk, value)
    return value


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal: to tell one file from every other."""
    digest = hashlib.sha256()
    for chunk in _chunks(file):
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            yield chunk
