"""Sequence-level distillation: targets that a teacher has written, in the place of the data's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from tqdm.auto import tqdm

Tokens = list[int]
Targets = dict[int, NDArray[np.int32]]  # by row, ``[tokens]``


class TargetFile:
    """Targets on disk, as JSON lines: first whose they are, then ``{"row": 7, "tokens": [...], "text": "..."}`` each.

    Lines are added as targets are made, so that an interrupted run pays for none twice. A last line that was not
    finished is cut off.

    Args:
        path: The file. One that belongs to something else is renamed when it is opened (``NAME.outdated.jsonl``).
        belongs_to: What tells these targets from others: a hash of the teacher, its settings and the rows.
        decode: From tokens to text, for those who read the file.
    """

    def __init__(self, path: Path, *, belongs_to: str, decode: Callable[[Tokens], str]) -> None:
        self.path, self.decode = path, decode
        self._first = {"belongs_to": belongs_to}

    def read(self) -> Targets:
        """The targets that are there; the file is then ready to be added to."""
        lines = self._whole_lines()
        first, end = next(lines, (None, 0))
        if first == self._first:
            targets: Targets = {}
            for line, end in lines:  # noqa: B007 - the last line's is wanted
                targets[line["row"]] = np.array(line["tokens"], dtype=np.int32)
            os.truncate(self.path, end)
            return targets
        lines.close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if end:
            os.replace(self.path, self.path.with_suffix(f".outdated{self.path.suffix}"))
        self.path.write_text(json.dumps(self._first) + "\n", encoding="utf-8")
        return {}

    def add(self, targets: Mapping[int, Tokens]) -> None:
        """Adds targets by row."""
        lines = [
            json.dumps({"row": row, "tokens": tokens, "text": self.decode(tokens)}, ensure_ascii=False)
            for row, tokens in targets.items()
        ]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))

    def _whole_lines(self) -> Generator[tuple[Any, int]]:
        """The lines up to one that was not finished, and where each ends in the file."""
        if not self.path.is_file():
            return
        end = 0
        with self.path.open("rb") as file:
            for line in file:
                try:
                    said = json.loads(line)
                except ValueError:
                    return
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                yield said, end


def with_teacher_targets(
    rows: Dataset,
    write: Callable[[Any], list[Tokens]],
    collator: Callable[[list[Any]], Any],
    *,
    file: TargetFile,
    batch_size: int,
) -> Dataset:
    r"""Tokenized rows whose ``labels`` are what a teacher writes for them.

    .. math:: \hat{y} \approx \arg\max_y q(y|x), \quad L = -\log p(\hat{y}|x)

    with q the teacher, whose beam search stands for the arg max, and p the student, trained under ``task_loss``.

    Args:
        rows: Tokenized rows, with ``labels``.
        write: The teacher: from a batch to each row's tokens, the end of the sequence included.
        collator: Pads a list of rows.
        file: Where targets are kept; rows that have one are not written for again.
        batch_size: Rows in a batch.

    References:
        Kim & Rush (2016), arXiv:1606.07947, section 3.2 (sequence-level knowledge distillation).
    """
    targets = file.read()
    lengths = [len(ids) for ids in rows["input_ids"]]
    waiting = [int(row) for row in np.argsort(lengths, kind="stable")[::-1] if int(row) not in targets]
    starts = range(0, len(waiting), batch_size)
    for start in tqdm(starts, desc="The teacher writes targets", disable=None if waiting else True):
        chosen = waiting[start : start + batch_size]
        made = dict(zip(chosen, write(collator([rows[row] for row in chosen])), strict=True))
        file.add(made)
        targets |= {row: np.array(tokens, dtype=np.int32) for row, tokens in made.items()}
    labels = [targets[row] for row in range(len(rows))]
    return rows.remove_columns("labels").add_column("labels", labels, feature=rows.features["labels"])
