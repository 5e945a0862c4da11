"""Tiny models of every supported family, made from configurations, and batches to feed them."""

from __future__ import annotations

import torch
from transformers import (
    AlbertConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    RobertaConfig,
)

VOCAB = 64
_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}
CONFIGS = {
    "bert": lambda **kw: BertConfig(**{**_COMMON, **kw}),
    "roberta": lambda **kw: RobertaConfig(**{**_COMMON, **kw}),
    "distilbert": lambda **kw: DistilBertConfig(
        **{
            "vocab_size": VOCAB,
            "dim": 32,
            "n_layers": 4,
            "n_heads": 4,
            "hidden_dim": 48,
            "pad_token_id": 0,
            **kw,
        }
    ),
    "electra": lambda **kw: ElectraConfig(**{**_COMMON, "embedding_size": 16, **kw}),
    "albert": lambda **kw: AlbertConfig(**{**_COMMON, "embedding_size": 16, **kw}),
    "modernbert": lambda **kw: ModernBertConfig(**{**_COMMON, "local_attention": 8, **kw}),
    "deberta-v2": lambda **kw: DebertaV2Config(
        **{**_COMMON, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], **kw}
    ),
    "gpt2": lambda **kw: GPT2Config(
        **{
            "vocab_size": VOCAB,
            "n_embd": 32,
            "n_layer": 4,
            "n_head": 4,
            "n_positions": 64,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            **kw,
        }
    ),
    "llama": lambda **kw: LlamaConfig(**{**_COMMON, "num_key_value_heads": 2, **kw}),
}
FAMILIES = tuple(CONFIGS)
_CLASSES = {
    "example": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
    "next_token": AutoModelForCausalLM,
    "span": AutoModelForQuestionAnswering,
    "masked": AutoModelForMaskedLM,
}


def tiny_model(family: str = "bert", item: str = "example", seed: int = 0, **config):
    """A random model in eval mode, with 3 labels where it has labels."""
    if item in ("example", "token"):
        config.setdefault("num_labels", 3)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _CLASSES[item].from_config(CONFIGS[family](**config)).eval()


def batch(item: str = "example", rows: int = 4, tokens: int = 12, lengths=(12, 7, 9, 3), seed: int = 0):
    """A padded batch with labels; every third token label is ignored."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCAB, (rows, tokens), generator=generator)
    mask = (torch.arange(tokens) < torch.tensor(lengths[:rows]).unsqueeze(1)).long()
    made = {"input_ids": ids * mask, "attention_mask": mask}
    if item == "example":
        made["labels"] = torch.randint(0, 3, (rows,), generator=generator)
    elif item == "span":
        made["start_positions"] = made["end_positions"] = torch.zeros(rows, dtype=torch.long)
    else:
        labels = torch.randint(0, 3 if item == "token" else VOCAB, (rows, tokens), generator=generator)
        labels[:, ::3] = -100
        made["labels"] = labels.masked_fill(mask == 0, -100)
    return made
