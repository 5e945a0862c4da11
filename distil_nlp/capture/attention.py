"""Self-attention that can be observed while it stays fast."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.utils import logging

from distil_nlp.blocks import observes_inputs
from distil_nlp.capture.recorder import current
from distil_nlp.errors import ModelError
from distil_nlp.signals import SelfAttention

logger = logging.get_logger(__name__)

ATTENTION_NAME = "distil_sdpa"


def _recording_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """The model's own SDPA; a recorder, where one is listening, is shown what goes in."""
    recorder = current.get()
    if recorder is not None:
        causal = is_causal if is_causal is not None else getattr(module, "is_causal", False)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        seen = SelfAttention(query, key, attention_mask, scale, bool(causal), value=value)
        recorder.attention_seen(seen)
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, is_causal=is_causal, **kwargs
    )


AttentionInterface.register(ATTENTION_NAME, _recording_attention)
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)


def prepare_attention(model: PreTrainedModel, role: str) -> None:
    """Makes a model's self-attention observable; called once, and only where an objective needs it.

    A model whose attention goes through ``transformers.AttentionInterface``, and that can have SDPA, keeps it. One of
    another kind (DeBERTa-v2, Gemma-2) is switched to eager attention, which is slower and, in training, gives maps
    after dropout.

    Args:
        model: The student or the teacher.
        role: ``"student"`` or ``"teacher"``, for messages.

    Raises:
        ModelError: if the model was loaded with an attention that has no maps to look at (flash, flex).
    """
    loaded_with = model.config._attn_implementation
    if loaded_with not in (None, "sdpa", "eager", ATTENTION_NAME):
        raise ModelError(
            f"An objective matches attention maps, so the {role}'s attention must be observable.",
            f"The {role} was loaded with attn_implementation='{loaded_with}', which never builds them.",
            f"Load the {role} with from_pretrained(..., attn_implementation='sdpa'), or leave the objective out.",
        )
    if observes_inputs(model):
        model.set_attn_implementation(ATTENTION_NAME)
        return
    logger.warning(
        f"{type(model).__name__} ({role}) has no SDPA that can be observed: its attention runs eagerly, "
        "which is slower, and in training its maps are taken after dropout."
    )
    model.config._attn_implementation = "eager"
