"""Tiny encoder-decoders, and rows whose targets are of other lengths than their sources."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    M2M100Config,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
)

VOCAB = 40
_LIKE_BART: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "init_std": 0.3,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
_T5: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
CONFIGS = {
    "t5": lambda **kw: T5Config(**{**_T5, **kw}),
    "bart": lambda **kw: BartConfig(**{**_LIKE_BART, **kw}),
    "m2m_100": lambda **kw: M2M100Config(**{**_LIKE_BART, **kw}),
}
SOURCES, TARGETS = (9, 4, 12, 7, 3, 10), (3, 8, 1, 6, 11, 2)


def tiny_seq2seq(family: str = "t5", seed: int = 0, **config: Any) -> PreTrainedModel:
    """A random model in eval mode, whose biases (BART's on the logits) are random too."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForSeq2SeqLM.from_config(CONFIGS[family](**config)).eval()
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_()
    return model


def seq2seq_rows(seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Rows without padding; one label in the middle does not count."""
    dice = torch.Generator().manual_seed(seed)
    rows = []
    for source, target in zip(SOURCES, TARGETS, strict=True):
        labels = torch.randint(3, VOCAB, (target,), generator=dice)
        labels[target // 2] = -100 if target > 7 else labels[target // 2]
        ids = torch.randint(3, VOCAB, (source,), generator=dice)
        rows.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return rows


def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Pads on the right: sources with zeros, targets with -100."""
    fill = {"labels": -100}
    return {
        name: torch.nn.utils.rnn.pad_sequence([row[name] for row in rows], True, fill.get(name, 0)) for name in rows[0]
    }


FEELINGS = {"good": "they liked it", "bad": "nobody liked it at all"}
FILLERS = ["the", "film", "plot", "scene", "actor", "music", "was", "very", "quite", "rather", "in", "a", "we", "saw"]
SPECIAL = ["<pad>", "</s>", "<unk>"]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, and the end of the sequence after them, as T5 has it."""
    words = [*SPECIAL, *FILLERS, *FEELINGS, *sorted({word for text in FEELINGS.values() for word in text.split()})]
    words += ["review", ":"]
    tokenizer = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )


def write_rows(path: Path, count: int = 240) -> Path:
    """Sentences, and what somebody who says them felt: one word of theirs tells it, but for one row in twelve."""
    dice = random.Random(1)
    lines = []
    for row in range(count):
        words = dice.choices(FILLERS, k=dice.randint(3, 8))
        feeling = ("good", "bad")[row % 2]
        words.insert(dice.randrange(len(words)), feeling)
        summary = FEELINGS[feeling if row % 12 else "bad"]
        lines.append(json.dumps({"document": " ".join(words), "summary": summary}))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
