"""The stores that a folder has, each with what it says of itself."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import nn

from distil_nlp.errors import TrainingError
from distil_nlp.signals import Needs, Shape
from distil_nlp.teachers.records import Contents
from distil_nlp.teachers.store import store_whole

FORMAT = 1  # of rows on disk
DESCRIPTION = "store.json"


@dataclass(frozen=True)
class Description:
    """What decides what a store holds, and what is known of the teacher.

    Attributes:
        teacher: The teacher's fingerprint.
        dtype: In which features are stored.
        contents: What is stored of each row.
        input_names: Columns that the teacher reads.
        label_names: Names of its labels.
    """

    teacher: str
    dtype: str
    contents: Contents
    input_names: frozenset[str]
    label_names: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        needs = self.contents.needs
        return {
            "format": FORMAT,
            "teacher": self.teacher,
            "dtype": self.dtype,
            "top_k": self.contents.top_k,
            "needs": {
                **dataclasses.asdict(needs),
                "hidden_states": sorted(needs.hidden_states),
                "attentions": sorted(needs.attentions),
            },
            "shape": dataclasses.asdict(self.contents.shape),
            "input_names": sorted(self.input_names),
            "label_names": self.label_names and list(self.label_names),
        }

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Description:
        """The inverse of :meth:`to_json`."""
        needs: dict[str, Any] = {k: frozenset(v) if isinstance(v, list) else v for k, v in said["needs"].items()}
        contents = Contents(Needs(**needs), Shape(**said["shape"]), said["top_k"])
        names = said["label_names"]
        return cls(
            said["teacher"],
            said["dtype"],
            contents,
            frozenset(said["input_names"]),
            None if names is None else tuple(names),
        )


def descriptions(folder: Path) -> Iterator[tuple[Path, Description]]:
    """The stores in a folder. One whose description cannot be read, or is of another format, is passed over."""
    for path in sorted(folder.glob(f"*/{DESCRIPTION}")):
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            if said["format"] == FORMAT:
                yield path.parent, Description.from_json(said)
        except (OSError, ValueError, KeyError, TypeError):
            continue


def choose_store(folder: Path, wanted: Description) -> tuple[Path, Contents]:
    """The store that has what is wanted, and least besides; a new one if there is none.

    Raises:
        TrainingError: if nothing can be written to the folder.
    """
    serving = [
        (path, known.contents)
        for path, known in descriptions(folder)
        if known.teacher == wanted.teacher
        and known.dtype == wanted.dtype
        and (known.contents.top_k == wanted.contents.top_k or not wanted.contents.needs.head)
        and known.contents.covers(wanted.contents.needs)
    ]
    if serving:
        return min(serving, key=lambda pair: _amount(pair[1].needs))
    said = json.dumps(wanted.to_json(), indent=2)
    path = folder / hashlib.blake2b(said.encode(), digest_size=8).hexdigest()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(
            f"A teacher's outputs were to be stored in {folder}.", f"{error}.", "Name another folder."
        ) from error
    store_whole(path / DESCRIPTION, said.encode())
    return path, wanted.contents


def save_head(folder: Path, head: nn.Linear) -> None:
    """Keeps a vocabulary head beside the rows that hold its inputs."""
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()})
    path = folder / f"head-{zlib.crc32(content):08x}.safetensors"
    if not path.exists():
        store_whole(path, content)


def load_head(folder: Path) -> nn.Linear | None:
    """The head that was kept, or None if there is none that is whole."""
    for path in sorted(folder.glob("head-*.safetensors")):
        content = path.read_bytes()
        if path.name == f"head-{zlib.crc32(content):08x}.safetensors":
            state = load(content)
            rows, width = state["weight"].shape
            head = nn.Linear(width, rows, bias="bias" in state, device="meta")
            head.load_state_dict(state, assign=True)
            return head.requires_grad_(False)
    return None


def _amount(needs: Needs) -> int:
    return len(needs.hidden_states) + 3 * len(needs.attentions) + needs.head
