"""Text from a decoder's graph, with numpy and onnxruntime alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from distil_nlp.export.decoder import Decoder, Past
from distil_nlp.export.job import Batch

if TYPE_CHECKING:
    import onnxruntime


def generate(
    session: onnxruntime.InferenceSession,
    prompts: Batch,
    *,
    max_new_tokens: int,
    eos_token_id: int | Sequence[int] = (),
    pad_token_id: int = 0,
) -> np.ndarray:
    """Continues prompts with the likeliest token each time, as ``model.generate(do_sample=False)`` does.

    A graph with a cache of keys and values (``text-generation-with-past``) is given one token a step; any other is
    given the whole text again.

    Args:
        session: The graph's (:func:`~distil_nlp.export.make_session`).
        prompts: ``input_ids`` and, where some are shorter, ``attention_mask``, ``[batch, tokens]``: padded in front.
        max_new_tokens: When to stop at the latest.
        eos_token_id: What ends a row; without one all rows have the full length.
        pad_token_id: What fills up a row that has ended.

    Returns:
        The new tokens, ``[batch, new]``.
    """
    decoder = Decoder(session)
    past: Past | None = None
    fed = np.asarray(prompts["input_ids"], dtype=np.int64)
    mask = np.asarray(prompts.get("attention_mask", np.ones_like(fed)), dtype=np.int64)
    going = np.ones(len(fed), dtype=bool)
    written: list[np.ndarray] = []
    while len(written) < max_new_tokens and going.any():
        logits, past = decoder.step(fed, mask, past)
        newest = np.where(going, logits[:, -1].argmax(axis=-1), pad_token_id)
        written.append(newest)
        going &= ~np.isin(newest, eos_token_id)
        mask = np.concatenate([mask, np.ones_like(mask[:, :1])], axis=1)
        fed = newest[:, None] if decoder.cached else np.concatenate([fed, newest[:, None]], axis=1)
    return np.stack(written, axis=1) if written else np.empty((len(fed), 0), dtype=np.int64)
