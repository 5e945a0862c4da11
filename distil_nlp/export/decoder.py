"""A decoder's graph, step by step: what it has computed of earlier tokens need not be computed again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from distil_nlp.export.batches import Batch, positions
from distil_nlp.export.optimum_script import empty_past
from distil_nlp.export.session import run_session

if TYPE_CHECKING:
    import onnxruntime

_PAST, _PRESENT = "past_key_values.", "present."
_OF_ENCODER = ".encoder."  # keys and values of what the encoder has read: the same at every step

Past = dict[str, np.ndarray]


def is_present(name: str) -> bool:
    """Whether an output of a graph is a block's keys or values, to be given back as past ones."""
    return name.startswith(_PRESENT)


class Decoder:
    """A decoder's graph that is given tokens as they come.

    Args:
        session: Of a graph with or without inputs for past keys and values.
        name: What errors call it.

    Attributes:
        cached: Whether it has them; if not, each step must be given all tokens again.
    """

    def __init__(self, session: onnxruntime.InferenceSession, name: str = "the graph") -> None:
        self.session, self.name = session, name
        self.inputs = [value.name for value in session.get_inputs()]
        self.outputs = [value.name for value in session.get_outputs()]
        self.cached = bool(empty_past(session, 1))

    def step(
        self, ids: np.ndarray, mask: np.ndarray, past: Past | None = None, *, context: Batch | None = None
    ) -> tuple[np.ndarray, Past]:
        """Runs the graph on the newest tokens.

        Args:
            ids: ``[batch, new]``, int64.
            mask: Of all tokens so far, ``[batch, past + new]``, int64.
            past: What the last step gave; None at first.
            context: What the graph reads besides at every step: the encoder's states and mask.

        Returns:
            Logits of the newest tokens, ``[batch, new, vocab]``, and what the next step is given.

        Raises:
            ExportError: The graph does not run on them.
        """
        known: Batch = {"input_ids": ids, "attention_mask": mask, "position_ids": positions(mask)[:, -ids.shape[1] :]}
        known = {**known, **(context or {}), "use_cache_branch": np.array([past is not None])}
        feeds = {name: value for name, value in known.items() if name in self.inputs}
        feeds |= empty_past(self.session, len(ids)) if past is None else past
        given = dict(zip(self.outputs, run_session(self.session, self.outputs, feeds, self.name), strict=True))
        present = {f"{_PAST}{name[len(_PRESENT) :]}": value for name, value in given.items() if is_present(name)}
        kept = {name: value for name, value in (past or {}).items() if _OF_ENCODER in name}
        return given["logits"], {**present, **kept} if self.cached else {}
