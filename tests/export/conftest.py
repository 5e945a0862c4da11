"""Tiny checkpoints with a real tokenizer, and real padded batches for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from distil_nlp.export.checkpoint import AUTO_CLASSES

VOCABULARY = "[PAD] [UNK] a fine film with wit the plot goes nowhere slowly dreadful and takes its time"
WORDS = VOCABULARY.split()
TEXTS = ["a fine film with wit", "dreadful", "the plot goes nowhere slowly and takes its time"]
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


def save_checkpoint(config: transformers.PreTrainedConfig, task: str, folder: Path) -> Path:
    """Saves a random model whose outputs vary by more than rounding, and its tokenizer."""
    torch.manual_seed(0)
    model = getattr(transformers, AUTO_CLASSES[task]).from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", padding_side="right"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def samples() -> list[dict[str, np.ndarray]]:
    """Two batches: three padded texts, and one alone, padded further."""
    ids = [[WORDS.index(word) for word in text.split()] for text in TEXTS]
    return [_pad(ids, 9), _pad(ids[:1], 16)]


def _pad(ids: list[list[int]], length: int) -> dict[str, np.ndarray]:
    rows = np.array([row + [0] * (length - len(row)) for row in ids], dtype=np.int64)
    return {"input_ids": rows, "attention_mask": (rows != 0).astype(np.int64)}


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT that classifies texts."""
    config = transformers.BertConfig(**SIZES, num_labels=3)
    return save_checkpoint(config, "text-classification", tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama-type model with a rotary base that is nobody's default."""
    config = transformers.LlamaConfig(**SIZES, rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    return save_checkpoint(config, "text-generation", tmp_path_factory.mktemp("llama"))
