"""A decoder's graph, step by step: what it has computed of earlier tokens need not be computed again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from distil_nlp.export.job import Batch
from distil_nlp.export.optimum_script import empty_past

if TYPE_CHECKING:
    import onnxruntime

_PAST, _PRESENT = "past_key_values.", "present."

Past = dict[str, np.ndarray]


def is_present(name: str) -> bool:
    """Whether an output of a graph is a block's keys or values, to be given back as past ones."""
    return name.startswith(_PRESENT)


def positions(mask: np.ndarray) -> np.ndarray:
    """Positions of tokens among those that are not padding, ``[batch, tokens]``; 0 before the first."""
    return np.maximum(mask.cumsum(axis=1) - 1, 0)


class Decoder:
    """A decoder's graph that is given tokens as they come.

    Args:
        session: Of a graph with or without inputs for past keys and values.

    Attributes:
        cached: Whether it has them; if not, each step must be given all tokens again.
    """

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self.inputs = [value.name for value in session.get_inputs()]
        self.outputs = [value.name for value in session.get_outputs()]
        self.cached = bool(empty_past(session, 1))

    def step(self, ids: np.ndarray, mask: np.ndarray, past: Past | None = None) -> tuple[np.ndarray, Past]:
        """Runs the graph on the newest tokens.

        Args:
            ids: ``[batch, new]``, int64.
            mask: Of all tokens so far, ``[batch, past + new]``, int64.
            past: What the last step gave; None at first.

        Returns:
            Logits of the newest tokens, ``[batch, new, vocab]``, and what the next step is given.
        """
        known: Batch = {"input_ids": ids, "attention_mask": mask, "position_ids": positions(mask)[:, -ids.shape[1] :]}
        feeds = {name: value for name, value in known.items() if name in self.inputs}
        feeds |= empty_past(self.session, len(ids)) if past is None else past
        given = dict(zip(self.outputs, self.session.run(self.outputs, feeds), strict=True))
        present = {f"{_PAST}{name[len(_PRESENT) :]}": value for name, value in given.items() if is_present(name)}
        return given["logits"], present if self.cached else {}
