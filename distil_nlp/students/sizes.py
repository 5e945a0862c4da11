"""The sizes of a model's blocks, and which smaller ones it can have."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from distil_nlp.errors import ModelError

_INTERMEDIATE = ("intermediate_size", "hidden_dim", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size", "d_inner")
EMBEDDING = ("embedding_size", "word_embed_proj_dim")  # ELECTRA and OPT project them if they are not the hidden size


@dataclass(frozen=True)
class Sizes:
    """What is equally wide in all blocks of a model.

    Attributes:
        hidden: Width of the hidden states.
        heads: Query heads of a block.
        key_value_heads: Key/value heads; fewer than ``heads`` under grouped-query attention.
        head_dim: Width of a head.
        intermediate: Neurons of a feed-forward layer; 0 where the configuration does not say (BLOOM).
    """

    hidden: int
    heads: int
    key_value_heads: int
    head_dim: int
    intermediate: int

    @classmethod
    def of(cls, config: PretrainedConfig) -> Sizes:
        """Reads them off a configuration.

        Raises:
            ModelError: if blocks are not all alike, or have no heads.
        """
        text: Any = config.get_text_config()
        if getattr(text, "is_heterogeneous", False):
            raise _not_narrower(f"The sizes of {text.model_type} differ by block.")
        if not hasattr(text, "num_attention_heads"):
            raise _not_narrower(f"The configuration of {text.model_type} has no num_attention_heads.")
        name = _intermediate_key(text)
        return cls(
            hidden=text.hidden_size,
            heads=text.num_attention_heads,
            key_value_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            intermediate=(getattr(text, name) or 4 * text.hidden_size) if name else 0,  # as GPT-2 reads n_inner=None
        )

    def replace(self, **changes: int) -> Sizes:
        """The same sizes but for some."""
        return dataclasses.replace(self, **changes)

    def configured(self, config: PretrainedConfig) -> PretrainedConfig:
        """A copy of a configuration with these sizes."""
        config = copy.deepcopy(config)
        text: Any = config.get_text_config()
        for name in EMBEDDING:
            if getattr(text, name, None) == text.hidden_size:
                setattr(text, name, self.hidden)
        text.hidden_size, text.num_attention_heads = self.hidden, self.heads
        if getattr(text, "num_key_value_heads", None) is not None:
            text.num_key_value_heads = self.key_value_heads
        if intermediate := _intermediate_key(text):
            setattr(text, intermediate, self.intermediate)
        return config


def smaller_sizes(
    config: PretrainedConfig, *, hidden_size: int | None, num_heads: int | None, intermediate_size: int | None
) -> Sizes:
    """The sizes of a student; those that are not given follow from the others, or stay.

    A head keeps its width. Where the configuration has no ``head_dim`` of its own (BERT), the hidden size is the
    heads' number times their width, so that the one decides the other. Heads that share keys and values stay together.

    Raises:
        ModelError: for sizes that the model cannot have.
    """
    old = Sizes.of(config)
    for name, asked, most in (
        ("hidden_size", hidden_size, old.hidden),
        ("num_heads", num_heads, old.heads),
        ("intermediate_size", intermediate_size, old.intermediate),
    ):
        if asked is not None and not most:
            raise _not_narrower(f"Its configuration has none of {', '.join(_INTERMEDIATE)}.")
        if asked is not None and not 1 <= asked <= most:
            raise _impossible(f"{name}={asked}", f"The teacher's is {most}.", f"Ask for 1 to {most}.")
    hidden, heads = hidden_size or old.hidden, num_heads or old.heads
    if getattr(config.get_text_config(), "head_dim", None) is None:
        hidden, heads = _tied(old, hidden_size, num_heads)
    shared = old.heads // old.key_value_heads
    if heads % shared:
        raise _impossible(
            f"num_heads={heads}",
            f"The teacher has {old.heads} heads, {shared} of which share their keys and values.",
            f"Ask for a multiple of {shared} heads, up to {old.heads}.",
        )
    return old.replace(
        hidden=hidden,
        heads=heads,
        key_value_heads=heads // shared,
        intermediate=intermediate_size or old.intermediate,
    )


def _tied(old: Sizes, hidden_size: int | None, num_heads: int | None) -> tuple[int, int]:
    if hidden_size is None and num_heads is None:
        return old.hidden, old.heads
    hidden = old.hidden if hidden_size is None else hidden_size
    heads = hidden // old.head_dim if num_heads is None else num_heads
    if heads * old.head_dim != hidden:
        raise _impossible(
            f"hidden_size={hidden_size}, num_heads={num_heads}",
            f"The hidden size of this model is its number of heads times {old.head_dim}, the width of a head, which "
            "stays.",
            f"Ask for hidden_size={max(heads, 1) * old.head_dim}, or another multiple of {old.head_dim} up to "
            f"{old.hidden}; num_heads follows from it.",
        )
    return hidden, heads


def _intermediate_key(config: Any) -> str | None:
    return next((name for name in _INTERMEDIATE if hasattr(config, name)), None)


def _not_narrower(found: str) -> ModelError:
    return ModelError("A narrower student was asked for.", found, "Ask for fewer layers instead (num_layers).")


def _impossible(asked: str, found: str, fix: str) -> ModelError:
    return ModelError(f"A student with {asked} was asked for.", found, fix)
