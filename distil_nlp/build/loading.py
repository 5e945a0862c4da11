"""From a recipe's references to loaded models and tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from distil_nlp.references import HubReference, hub_access, pretrained_arguments, read_json, resolve


class Loader:
    """Loads what a recipe refers to; each reference is resolved once.

    Args:
        progress: Called with one line for each step that takes time.
    """

    def __init__(self, progress: Callable[[str], None]) -> None:
        self.progress = progress
        self._sources: dict[tuple[str | None, ...], Path | HubReference] = {}

    def model(
        self, reference: Any, auto_class: Any, *, dtype: str | torch.dtype = torch.float32, **arguments: Any
    ) -> PreTrainedModel:
        """Loads a model; of a GGUF file, its weights unpacked.

        Args:
            reference: A section of the recipe with ``model``, ``sha256`` and ``revision``, and perhaps ``gguf_file``.
            auto_class: The ``transformers`` class that loads it.
            dtype: Of its weights.
            **arguments: Further ones of ``from_pretrained``.
        """
        source, gguf_file = self._source(reference), getattr(reference, "gguf_file", None)
        name, located = pretrained_arguments(source, gguf_file)
        if "gguf_file" in located and hasattr(transformers, "GgufConfig"):  # else it could be neither trained nor saved
            arguments["quantization_config"] = transformers.GgufConfig(dequantize=True)
        with hub_access(source):
            loaded: PreTrainedModel = auto_class.from_pretrained(
                name, dtype=dtype, use_safetensors="gguf_file" not in located or None, **located, **arguments
            )
        return loaded

    def tokenizer(self, reference: Any) -> PreTrainedTokenizerBase:
        """Loads a model's tokenizer; one without a padding token pads with its end of text."""
        source = self._source(reference)
        name, located = pretrained_arguments(source, getattr(reference, "gguf_file", None))
        with hub_access(source):
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, **located)
        if tokenizer.pad_token is None and tokenizer.eos_token is not None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def json(self, reference: Any, name: str) -> Any:
        """Reads a JSON file that lies beside a model's weights; None where there is none."""
        return read_json(self._source(reference), name)

    def _source(self, reference: Any) -> Path | HubReference:
        which = {"sha256": reference.sha256, "revision": reference.revision}
        which["gguf_file"] = getattr(reference, "gguf_file", None)
        key = (reference.model, *which.values())
        if key not in self._sources:
            self._sources[key] = resolve(reference.model, **which, progress=self.progress)
        return self._sources[key]
