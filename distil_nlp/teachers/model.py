"""A model as teacher."""

from __future__ import annotations

import dataclasses
import inspect

import torch
from transformers import PreTrainedModel

from distil_nlp.blocks import describe
from distil_nlp.capture import capture, has_plain_vocabulary_head, prepare_attention
from distil_nlp.signals import Batch, Needs, Signals


class ModelTeacher:
    """Runs a model in ``eval()`` without gradient, in its own dtype, and no further than needed.

    Args:
        model: The teacher. Its parameters are frozen.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        model.train(False).requires_grad_(False)
        self.shape = describe(model)
        self.input_names = frozenset(inspect.signature(model.forward).parameters)
        self._gives_vocabulary = False

    def prepare(self, needs: Needs, device: torch.device) -> None:
        """Moves the model to the device and makes its attention observable where that is needed."""
        if getattr(self.model, "hf_device_map", None) is None:
            self.model.to(device=device)  # type: ignore[call-arg]
        if needs.attentions:
            prepare_attention(self.model, "teacher")
        self._gives_vocabulary = needs.vocabulary and has_plain_vocabulary_head(self.model)

    def __call__(self, batch: Batch, needs: Needs) -> Signals:
        """Signals for a batch; logits in the place of a vocabulary head that is not plain."""
        if needs.vocabulary and not self._gives_vocabulary:
            needs = dataclasses.replace(needs, vocabulary=False, logits=True)
        with torch.no_grad():
            return capture(self.model, batch, needs)
