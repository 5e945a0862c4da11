"""Checksums of files, read in pieces."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 1 << 20


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
