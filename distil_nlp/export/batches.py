"""Padded batches, and the inputs that follow from others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from distil_nlp.errors import ExportError
from distil_nlp.signals import IGNORED, LABEL_NAMES

Batch = Mapping[str, np.ndarray]
Arrays = dict[str, np.ndarray]


def attention_mask(batch: Batch) -> np.ndarray:
    """Which tokens of a batch are not padding, ``[batch, tokens]``; all, where it does not say."""
    ids = np.asarray(batch["input_ids"])
    return np.asarray(batch.get("attention_mask", np.ones_like(ids)), dtype=np.int64)


def positions(mask: np.ndarray) -> np.ndarray:
    """Positions of tokens among those that are not padding, ``[batch, tokens]``; 0 before the first."""
    return np.maximum(mask.cumsum(axis=1) - 1, 0)


def complete_batch(batch: Batch, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Adds the inputs that a graph asks for and that follow from the others, and drops labels.

    Those are ``position_ids``, counted over the unmasked tokens, and all-zero ``token_type_ids``.
    """
    full = {name: np.asarray(value, dtype=np.int64) for name, value in batch.items() if name not in LABEL_NAMES}
    if "position_ids" in names and "position_ids" not in full:
        full["position_ids"] = positions(attention_mask(full))
    if "token_type_ids" in names and "token_type_ids" not in full:
        full["token_type_ids"] = np.zeros_like(full["input_ids"])
    return full


def shift_labels(model: Any, labels: np.ndarray) -> np.ndarray:
    """What an encoder-decoder's decoder reads while it is to write ``labels``, ``[batch, target tokens]``."""
    targets = torch.tensor(np.asarray(labels, dtype=np.int64))
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if shift is None:  # the models without one all shift alike
        start, pad = model.config.decoder_start_token_id, model.config.pad_token_id
        first = torch.full_like(targets[:, :1], start)
        return torch.cat([first, targets[:, :-1].masked_fill(targets[:, :-1] == IGNORED, pad)], dim=1).numpy()
    return np.asarray(shift(targets))


def decoder_inputs(model_dir: Path) -> Callable[[Batch], Batch]:
    """What adds to a batch what its decoder reads.

    Args:
        model_dir: An encoder-decoder's folder, or that of its export: its ``config.json`` tells how labels are shifted.

    Returns:
        From a batch to it with ``decoder_input_ids``, ``[batch, target tokens]``. It raises ExportError for one without
        ``labels``.
    """
    config = AutoConfig.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):  # no weights
        model = AutoModelForSeq2SeqLM.from_config(config, trust_remote_code=False)

    def complete(batch: Batch) -> Batch:
        if "decoder_input_ids" in batch:
            return batch
        if "labels" not in batch:
            raise ExportError(
                f"Run the decoder of {model_dir}.",
                f"The batch has {', '.join(batch)}, and nothing for the decoder to read.",
                "Give batches with labels, the tokens of the targets, or with decoder_input_ids.",
            )
        return {**batch, "decoder_input_ids": shift_labels(model, batch["labels"])}

    return complete
