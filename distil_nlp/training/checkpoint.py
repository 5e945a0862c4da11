"""Checkpoints that are whole or not used at all."""

from __future__ import annotations

import json
import re
from pathlib import Path

from distil_nlp.errors import TrainingError
from distil_nlp.files import crc32_of, write_whole

SEAL = "distil_seal.json"
_UNSEALED = (SEAL, "checkpoint-is-incomplete.txt")  # the second is there while transformers saves on SIGTERM


def seal(folder: Path) -> None:
    """Writes, last of all, the size and checksum of every file of a checkpoint.

    A checkpoint without a seal was interrupted while it was written.
    """
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "crc32": crc32_of(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in _UNSEALED
    }
    write_whole(folder / SEAL, json.dumps(files, indent=1))


def verify(folder: Path) -> None:
    """Compares a checkpoint with its seal.

    Raises:
        TrainingError: if a file is missing or not what was written, naming it and the way out.
    """
    if not (folder / SEAL).is_file():
        raise TrainingError(
            f"Training was to go on from {folder}.",
            "There is no whole checkpoint: it was never made, or interrupted while it was written.",
            "Give another checkpoint, or resume_from_checkpoint=True for the newest whole one.",
        )
    try:
        files = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    except ValueError:
        files = {SEAL: {"bytes": (folder / SEAL).stat().st_size, "crc32": None}}  # the seal itself is damaged
    for name, expected in files.items():
        path = folder / name
        damage = None
        if not path.is_file():
            damage = "is missing"
        elif path.stat().st_size != expected["bytes"]:
            damage = f"has {path.stat().st_size:,} bytes instead of {expected['bytes']:,}"
        elif crc32_of(path) != expected["crc32"]:
            damage = "does not have the checksum that it was written with"
        if damage:
            raise TrainingError(
                f"Training was to go on from {folder}.",
                f"The checkpoint is damaged: {name} {damage}.",
                f"Delete {folder} to go on from the checkpoint before it, or from the start of this stage.",
            )


def newest_checkpoint(output_dir: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None.

    A checkpoint that was interrupted while it was written is passed over.

    Raises:
        TrainingError: if the newest sealed checkpoint is damaged.
    """
    sealed = [path for path in output_dir.glob("checkpoint-*") if (path / SEAL).is_file()]
    if not sealed:
        return None
    newest = max(sealed, key=_step)
    verify(newest)
    return newest


def _step(path: Path) -> int:
    match = re.fullmatch(r"checkpoint-(\d+)", path.name)
    return int(match.group(1)) if match else -1
