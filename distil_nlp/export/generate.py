"""Text from a decoder's graph, with numpy and onnxruntime alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from distil_nlp.export.batches import Batch
from distil_nlp.export.decoder import Past

if TYPE_CHECKING:
    from distil_nlp.export.onnx_model import OnnxModel

Rules = Callable[[np.ndarray, np.ndarray], np.ndarray]


def generate(
    model: OnnxModel,
    batch: Batch,
    *,
    max_new_tokens: int,
    eos_token_id: int | Sequence[int] = (),
    pad_token_id: int = 0,
    rules: Rules | None = None,
) -> np.ndarray:
    """Takes the likeliest token each time, as ``model.generate(do_sample=False)`` does.

    A decoder continues its prompts; an encoder-decoder writes a text for each row that its encoder has read. A graph
    with a cache of keys and values is given one token a step; any other is given the whole text again.

    Args:
        model: The exported model (:func:`~distil_nlp.export.open_onnx`).
        batch: ``input_ids`` and, where some rows are shorter, ``attention_mask``, ``[batch, tokens]``; prompts are
            padded in front.
        max_new_tokens: When to stop at the latest.
        eos_token_id: What ends a row; without one all rows have the full length.
        pad_token_id: What fills up a row that has ended.
        rules: From the tokens so far, ``[batch, tokens]``, and the newest logits, ``[batch, vocab]``, to those that
            decide.

    Returns:
        The new tokens, ``[batch, new]``.
    """
    decoder = model.decoder
    fed, mask, context = model.begin(batch)
    tokens, first = fed, fed.shape[1]
    past: Past | None = None
    going = np.ones(len(fed), dtype=bool)
    while tokens.shape[1] < first + max_new_tokens and going.any():
        logits, past = decoder.step(fed, mask, past, context=context)
        scores = logits[:, -1] if rules is None else rules(tokens, logits[:, -1])
        newest = np.where(going, scores.argmax(axis=-1), pad_token_id)[:, None]
        tokens = np.concatenate([tokens, newest], axis=1)
        going &= ~np.isin(newest[:, 0], eos_token_id)
        mask = np.concatenate([mask, np.ones_like(mask[:, :1])], axis=1)
        fed = newest if decoder.cached else tokens
    return tokens[:, first:]
