"""What a checkpoint's ``generation_config`` asks of texts, by transformers' own logits processors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import (
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    GenerationConfig,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from distil_nlp.data.writing import ends_of
from distil_nlp.errors import ExportError
from distil_nlp.export.generate import Rules

_NOT_DONE = (
    "dola_layers",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "exponential_decay_length_penalty",
    "guidance_scale",
    "max_time",
    "penalty_alpha",
    "sequence_bias",
    "stop_strings",
    "watermarking_config",
)


def check_rules(config: GenerationConfig) -> None:
    """Checks that exports can write texts as a checkpoint's settings ask for.

    Raises:
        ExportError: They ask for what is not done in onnxruntime.
    """
    asked = [name for name in _NOT_DONE if getattr(config, name, None) not in (None, False, 0, 1)]
    if asked:
        settings = ", ".join(f"{name} = {getattr(config, name)!r}" for name in asked)
        raise ExportError(
            "Write texts with the exported model as its generation_config.json has it.",
            f"It sets {settings}, which is not done in onnxruntime.",
            "Remove it from the generation_config.json of the teacher's checkpoint, or leave `export` out.",
        )


def generation_rules(config: GenerationConfig, *, start_length: int, new_tokens: int) -> Rules:
    """What changes logits before the likeliest token is chosen, in the order in which ``generate`` does it.

    Args:
        config: The checkpoint's settings.
        start_length: Tokens that a text starts with.
        new_tokens: At most so many follow.
    """
    processors = LogitsProcessorList(_processors(config, start_length, start_length + new_tokens))

    def rules(tokens: np.ndarray, logits: np.ndarray) -> np.ndarray:
        scores: torch.Tensor = processors(torch.from_numpy(tokens), torch.from_numpy(logits))  # type: ignore[arg-type]
        return scores.numpy()

    return rules


def _processors(config: GenerationConfig, start_length: int, max_length: int) -> Iterator[Any]:
    ends = ends_of(config)
    if config.repetition_penalty not in (None, 1.0):
        yield RepetitionPenaltyLogitsProcessor(config.repetition_penalty)
    if config.no_repeat_ngram_size:
        yield NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size)
    if config.bad_words_ids is not None:
        yield NoBadWordsLogitsProcessor(config.bad_words_ids, ends)
    if config.min_length and ends:
        yield MinLengthLogitsProcessor(config.min_length, ends)
    if config.min_new_tokens and ends:
        yield MinNewTokensLengthLogitsProcessor(start_length, config.min_new_tokens, ends)
    if config.forced_bos_token_id is not None:
        yield ForcedBOSTokenLogitsProcessor(config.forced_bos_token_id)
    if config.forced_eos_token_id is not None:
        yield ForcedEOSTokenLogitsProcessor(max_length, config.forced_eos_token_id)
    if config.suppress_tokens is not None:
        yield SuppressTokensLogitsProcessor(config.suppress_tokens)
    if config.begin_suppress_tokens is not None:
        first = start_length + (start_length == 1 and config.forced_bos_token_id is not None)
        yield SuppressTokensAtBeginLogitsProcessor(config.begin_suppress_tokens, first)
