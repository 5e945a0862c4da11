"""What to do where a disk takes no more."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from distil_nlp.errors import TrainingError

TORN = ("file write failed", "unexpected pos", "iostream error")  # what torch.save says on a full disk, among others
REFUSED = (errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@contextmanager
def disk_explained(folder: Path) -> Iterator[None]:
    """Says what to do about a disk that is full or refuses what is written, whichever library ran into it."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        at = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        code = getattr(error, "errno", None)
        full = code == errno.ENOSPC or "No space left" in str(error)
        torn = any(words in str(error) for words in TORN) and shutil.disk_usage(at).free < 2**20
        if not (full or torn or code in REFUSED):
            raise
        what = "The disk is full" if full or torn else os.strerror(code or 0)
        raise TrainingError(
            f"A file was to be written to {folder}.",
            f"{what} ({shutil.disk_usage(at).free / 1e6:.0f} MB of space free).",
            "Mend that and start again (a whole run with --resume): finished stages and checkpoints are kept.",
        ) from error
