"""Where a transformer keeps its blocks, and what its measures are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accelerate.utils import extract_model_from_parallel
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from distil_nlp.errors import ModelError
from distil_nlp.signals import REGRESSION, Shape

_TOKEN_CLASSIFIERS = frozenset(modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES.values())
_SEQ2SEQ = frozenset(modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values())
_ITEMS = {
    "example": frozenset(modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values()),
    "token": _TOKEN_CLASSIFIERS | frozenset(modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()),
    # XLNet predicts the token at each place, and not the next one.
    "next_token": frozenset(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()) - {"XLNetLMHeadModel"},
    "span": frozenset(modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES.values()),
}
# Configurations with one of these have blocks, or values, of another head width, or say it in their own way.
_OTHER_HEAD_WIDTHS = (
    "attention_head_dim",
    "global_head_dim",
    "kv_channels",
    "qk_rope_head_dim",
    "swa_head_dim",
    "true_hidden_size",
    "v_head_dim",
)
_ENCODER_FIELDS = ("encoder_layers", "num_encoder_layers", "num_layers")
_DECODER_FIELDS = ("decoder_layers", "num_decoder_layers")


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


def inner_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside what torch.compile, data-parallel training and PEFT make of it, with adapters."""
    unwrapped: Any = extract_model_from_parallel(model, keep_torch_compile=False)
    found: PreTrainedModel = unwrapped.get_base_model() if hasattr(unwrapped, "get_base_model") else unwrapped
    return found


def find_blocks(model: PreTrainedModel) -> Blocks:
    """Finds the list of blocks: the outermost ``ModuleList`` as long as the configuration says.

    Raises:
        ModelError: if there is none (an encoder-decoder, or a model that keeps its blocks in another way).
    """
    config = model.config.get_text_config()
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(
            f"One list of the blocks of {type(model).__name__} is needed, to look at what is inside.",
            "It has two: its encoder's and its decoder's.",
            "Of encoder-decoders, predictions can be distilled (task_loss, logits_kl and the other logits_...), "
            "not hidden states or attention.",
        )
    num_layers = getattr(config, "num_hidden_layers", None)
    expected = getattr(config, "num_hidden_groups", num_layers)
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    found = [(name, module) for name, module in lists if len(module) == expected]
    if num_layers is None or not found:
        lengths = ", ".join(f"{name} ({len(module)})" for name, module in lists) or "none"
        raise ModelError(
            f"The blocks of {type(model).__name__} are needed.",
            f"No list of {expected} blocks was found; the lists of modules are: {lengths}.",
            "Encoder-only and decoder-only models that keep one list of blocks are supported.",
        )
    outermost = min(name.count(".") for name, _ in found)
    (path, modules), *others = [(name, module) for name, module in found if name.count(".") == outermost]
    if others:  # XLM keeps the parts of its blocks apart
        raise ModelError(
            f"The blocks of {type(model).__name__} are needed.",
            f"Several lists have as many modules: {', '.join([path, *(name for name, _ in others)])}.",
            "Encoder-only and decoder-only models that keep one list of blocks are supported.",
        )
    return Blocks(path, modules, num_layers)


def find_stacks(model: PreTrainedModel) -> dict[str, Blocks]:
    """Finds a model's stacks of blocks, each under the field of the configuration that says how many it has.

    Returns:
        One stack, as :func:`find_blocks` finds it, or an encoder's and a decoder's, in this order.

    Raises:
        ModelError: if a stack is not one list of blocks.
    """
    if not getattr(model.config, "is_encoder_decoder", False):
        return {"num_hidden_layers": find_blocks(model)}
    names = {id(module): name for name, module in model.named_modules()}
    stacks = {}
    for part, fields in ((model.get_encoder(), _ENCODER_FIELDS), (model.get_decoder(), _DECODER_FIELDS)):
        field = next((each for each in fields if hasattr(model.config, each)), fields[0])
        length: int = getattr(model.config, field, 0)
        lists = [(name, each) for name, each in part.named_children() if isinstance(each, nn.ModuleList)]
        found = [(f"{names[id(part)]}.{name}", each) for name, each in lists if len(each) == length]
        if len(found) != 1:
            raise ModelError(
                f"The encoder's and the decoder's blocks of {type(model).__name__} are needed.",
                f"No list of {length} blocks was found in '{names[id(part)] or type(part).__name__}'.",
                "Encoder-decoders like T5 and BART are supported.",
            )
        stacks[field] = Blocks(*found[0], length)
    return stacks


def is_seq2seq(model: nn.Module) -> bool:
    """Whether a model writes one text for another: a decoder's head over a vocabulary, which reads an encoder."""
    return _is_one_of(model, _SEQ2SEQ) and bool(getattr(model.config, "is_encoder_decoder", False))


def prediction_item(model: PreTrainedModel) -> str | None:
    """What one prediction of a model is, as :class:`~distil_nlp.signals.Shape` has it.

    A token of an encoder-decoder's target is a ``token``: its labels are not shifted, but its decoder's inputs are.
    """
    if is_seq2seq(model):
        return "token"
    return next((kind for kind, names in _ITEMS.items() if _is_one_of(model, names)), None)


def describe(model: PreTrainedModel) -> Shape:
    """Reads a model's measures off its configuration and class."""
    config = model.config.get_text_config()
    item = prediction_item(model)
    labelled = item == "example" or _is_one_of(model, _TOKEN_CLASSIFIERS)
    outputs = 2 if item == "span" else int((config.num_labels if labelled else config.vocab_size) or 0)
    problem = config.problem_type if item == "example" else None
    if item == "example" and config.num_labels == 1:
        problem = REGRESSION
    return Shape(
        num_layers=config.num_hidden_layers,
        width=config.hidden_size,
        num_heads=getattr(config, "num_attention_heads", 0),
        num_outputs=0 if item is None else outputs,
        item=item,
        problem=None if problem == "single_label_classification" else problem,
        attention_inputs=observes_inputs(model),
        attention_width=_attention_width(config),
        kept_layers=kept_layers(model.config, config.num_hidden_layers),
    )


def kept_layers(config: PretrainedConfig, num_layers: int) -> tuple[Sequence[int], int] | None:
    """From which blocks, numbered from 1, of how many a model's own were made; None if it does not say it of each."""
    kept, total = (getattr(config, name, None) for name in ("kept_layers", "kept_layers_of"))
    return (kept, total) if kept and total and len(kept) == num_layers else None


def _is_one_of(model: nn.Module, names: frozenset[str]) -> bool:
    """Whether a model is of one of some classes of transformers, or of one derived from them."""
    return any(kind.__name__ in names for kind in type(model).__mro__)


def observes_inputs(model: PreTrainedModel) -> bool:
    """Whether a model's attention can be observed as it runs in SDPA: if not, finished maps can.

    SDPA does not bend scores as Gemma-2's configuration wants it; early transformers 5 say that it does.
    """
    bent = getattr(model.config.get_text_config(), "attn_logit_softcapping", None)
    return bool(model._can_set_attn_implementation() and model._supports_sdpa and not bent)


def _attention_width(config: PretrainedConfig) -> int | None:
    """Heads times the width of one, where they are alike in all blocks, for queries, keys and values."""
    other = getattr(config, "is_heterogeneous", False) or any(hasattr(config, name) for name in _OTHER_HEAD_WIDTHS)
    if other or not hasattr(config, "num_attention_heads"):
        return None
    head_width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(config.num_attention_heads * head_width)
