"""One forward pass of a model, and what happens inside."""

from distil_nlp.capture.attention import ATTENTION_NAME, prepare_attention
from distil_nlp.capture.forward import capture
from distil_nlp.capture.plain_head import has_plain_vocabulary_head

__all__ = ["ATTENTION_NAME", "capture", "has_plain_vocabulary_head", "prepare_attention"]
