"""A model as teacher."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from distil_nlp.blocks import describe, find_blocks
from distil_nlp.capture import capture, has_plain_vocabulary_head, prepare_attention
from distil_nlp.errors import ModelError
from distil_nlp.label_names import names_by_id
from distil_nlp.signals import Batch, Needs, Shape, Signals
from distil_nlp.weights import plain_tensors

# Of a configuration, what does not decide a model's outputs.
_BESIDE_THE_POINT = (
    "architectures",
    "transformers_version",
    "dtype",
    "id2label",
    "label2id",
    "problem_type",
    "kept_layers",
    "kept_layers_of",
)


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

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Names of the labels in the order of its logits; None for a head that has no labels."""
        return label_names(self.model.config, self.shape)

    def fingerprint(self) -> str:
        """A hash of class, configuration and weights."""
        config = json.dumps(_deciding(self.model.config.to_dict()), sort_keys=True, default=str)
        digest = hashlib.blake2b(f"{type(self.model).__name__} {config}".encode(), digest_size=16)
        for name, tensor in self.model.state_dict().items():
            if tensor.is_meta:
                raise ModelError(
                    "Outputs are stored under a hash of the teacher's weights.",
                    f"{name} is not in memory.",
                    "Give the store a name of your own: StoredTeacher(..., fingerprint='my-teacher-1').",
                )
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            for part in plain_tensors(tensor):
                digest.update(part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def prepare(self, needs: Needs, device: torch.device) -> None:
        """Moves the model to the device and makes its attention observable where that is needed."""
        if getattr(self.model, "hf_device_map", None) is None:
            self.model.to(device=device)  # type: ignore[call-arg]
        if needs.hidden_states or needs.attentions:
            find_blocks(self.model)  # refuses a model whose blocks cannot be told apart
        if needs.attentions:
            prepare_attention(self.model, "teacher")
        self._gives_vocabulary = needs.vocabulary and has_plain_vocabulary_head(self.model)

    def __call__(self, batch: Batch, needs: Needs) -> Signals:
        """Signals for a batch; logits in the place of a vocabulary head that is not plain."""
        if needs.vocabulary and not self._gives_vocabulary:
            needs = dataclasses.replace(needs, vocabulary=False, logits=True)
        if self.model.training:  # whoever else has the model may have changed that
            self.model.eval()
        shared = [module for module in self.model.modules() if module.training]  # a student's, too, that is trained
        for module in shared:
            module.training = False
        try:
            with torch.no_grad():
                return capture(self.model, batch, needs)
        finally:
            for module in shared:
                module.training = True


def label_names(config: PretrainedConfig, shape: Shape) -> tuple[str, ...] | None:
    """Names of the labels of a model in the order of its logits; None for a head that has no labels."""
    id2label = names_by_id(config)
    if shape.item not in ("example", "token") or list(id2label) != list(range(shape.num_outputs)):
        return None
    return tuple(id2label.values())


def _deciding(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    return {k: _deciding(v) for k, v in config.items() if k not in _BESIDE_THE_POINT and not str(k).startswith("_")}
