"""Which models' losses can be made from the input of their vocabulary head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from distil_nlp.blocks import find_blocks, prediction_item
from distil_nlp.capture.forward import backbone_of, capture
from distil_nlp.errors import ModelError
from distil_nlp.signals import Needs, at_items, item_labels

LARGE = 100.0  # as large as trained states may be: some heads bend logits, which is not seen of small ones


def has_plain_vocabulary_head(model: PreTrainedModel) -> bool:
    """Whether a model ends in one linear layer over its vocabulary, and its loss is cross-entropy at the items.

    Only then can losses be made from that layer's input. It is tried on three tokens, whose last hidden states are
    made large: what the model gives for them must be what the layer gives for its input, and nothing else (the loss
    that balances a mixture of experts, say) may enter the loss.
    """
    head = model.get_output_embeddings()
    if prediction_item(model) not in ("token", "next_token") or type(head) is not nn.Linear:
        return False
    if getattr(model, "sparse_prediction", False):  # ModernBERT: with labels, logits are theirs alone
        return False
    ids = torch.arange(3, device=head.weight.device).unsqueeze(0) % head.out_features
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    training = model.training
    try:
        with torch.no_grad(), _large_states(model.eval()):
            output = model(**batch)
            seen = capture(model, batch, Needs(vocabulary=True)).vocabulary
    except (RuntimeError, TypeError, ValueError, ModelError):
        return False
    finally:
        model.train(training)
    if seen is None or output.loss is None or output.get("aux_loss") is not None:
        return False
    logits, item = head(seen.inputs), prediction_item(model)
    loss = F.cross_entropy(logits.float(), cast(Tensor, item_labels(batch, item)))
    pairs = ((logits, at_items(output.logits, batch, item)), (loss, output.loss))
    tolerance = 1e-4 if logits.dtype == torch.float32 else 1e-2
    return all(bool((ours - theirs).abs().max() <= tolerance * theirs.abs().max()) for ours, theirs in pairs)


@contextmanager
def _large_states(model: PreTrainedModel) -> Iterator[None]:
    def larger(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        states = output[0] * LARGE
        if isinstance(output, tuple):
            return (states, *output[1:])
        return type(output)(**{**output, "last_hidden_state": states})

    handle = backbone_of(model, find_blocks(model)).register_forward_hook(larger)
    try:
        yield
    finally:
        handle.remove()
