"""Where a transformer keeps its blocks, and what its measures are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from distil_nlp.errors import ModelError
from distil_nlp.signals import Shape

_TOKEN_CLASSIFIERS = frozenset(modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES.values())
_ITEMS = {
    "example": frozenset(modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values()),
    "token": _TOKEN_CLASSIFIERS | frozenset(modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()),
    "next_token": frozenset(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()),
    "span": frozenset(modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES.values()),
}


@dataclass(frozen=True)
class Blocks:
    """A model's stack of blocks.

    Attributes:
        path: Name of the list that holds them, within the model (``"bert.encoder.layer"``).
        modules: The distinct modules, in order; fewer than ``num_layers`` where blocks share weights (ALBERT).
        num_layers: How often a block runs in one forward pass.
    """

    path: str
    modules: nn.ModuleList
    num_layers: int

    @property
    def shared(self) -> bool:
        """Whether one module stands for several blocks."""
        return len(self.modules) != self.num_layers


def find_blocks(model: PreTrainedModel) -> Blocks:
    """Finds the list of blocks: the outermost ``ModuleList`` as long as the configuration says.

    Raises:
        ModelError: if there is none (an encoder-decoder, or a model that keeps its blocks in another way).
    """
    config = model.config.get_text_config()
    num_layers = getattr(config, "num_hidden_layers", None)
    expected = getattr(config, "num_hidden_groups", num_layers)
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    found = [(name, module) for name, module in lists if len(module) == expected]
    if num_layers is None or getattr(config, "is_encoder_decoder", False) or not found:
        lengths = ", ".join(f"{name} ({len(module)})" for name, module in lists) or "none"
        raise ModelError(
            f"The blocks of {type(model).__name__} are needed.",
            f"No list of {expected} blocks was found; the lists of modules are: {lengths}.",
            "Encoder-only and decoder-only models that keep one list of blocks are supported.",
        )
    path, modules = min(found, key=lambda entry: entry[0].count("."))
    return Blocks(path, modules, num_layers)


def prediction_item(model: PreTrainedModel) -> str | None:
    """What one prediction of a model is, as :class:`~distil_nlp.signals.Shape` has it."""
    return next((kind for kind, names in _ITEMS.items() if type(model).__name__ in names), None)


def describe(model: PreTrainedModel) -> Shape:
    """Reads a model's measures off its configuration and class."""
    config = model.config.get_text_config()
    name = type(model).__name__
    item = prediction_item(model)
    labelled = item == "example" or name in _TOKEN_CLASSIFIERS
    outputs = 2 if item == "span" else int((config.num_labels if labelled else config.vocab_size) or 0)
    problem = config.problem_type if item == "example" else None
    if item == "example" and config.num_labels == 1:
        problem = "regression"
    return Shape(
        num_layers=config.num_hidden_layers,
        width=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_outputs=0 if item is None else outputs,
        item=item,
        problem=None if problem == "single_label_classification" else problem,
        attention_inputs=model._can_set_attn_implementation(),
    )
