"""Encoder-decoders as two graphs, with PyTorch behind them; and what transformers writes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from tiny_seq2seq import collate, seq2seq_rows, tiny_seq2seq
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from distil_nlp.export.onnx_model import EncoderDecoder

NEW = 12


def rows() -> dict[str, np.ndarray]:
    """Padded sources, and targets without padding in the middle."""
    batch = {name: value.numpy() for name, value in collate(seq2seq_rows()).items()}
    batch["labels"][batch["labels"] == -100] = 7
    for row, length in enumerate((3, 8, 1, 6, 11, 2)):
        batch["labels"][row, length:] = -100
    return batch


def model_of(family: str, **config: Any) -> PreTrainedModel:
    """With such weights that it writes more than one token."""
    model = tiny_seq2seq(family, **config)
    dice = torch.Generator().manual_seed(3)
    for _, weight in sorted(model.named_parameters()):
        if weight.dim() > 1 and family == "t5":
            weight.data.normal_(0.0, 0.3, generator=dice)
    model.generation_config.forced_eos_token_id = None
    return model


class EncoderSession:
    """What onnxruntime's session of an encoder is, with PyTorch behind it."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.runs = model, 0

    @torch.no_grad()
    def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert (names, sorted(feeds)) == (["last_hidden_state"], ["attention_mask", "input_ids"])
        self.runs += 1
        tensors = {name: torch.from_numpy(value) for name, value in feeds.items()}
        return [self.model.get_encoder()(**tensors).last_hidden_state.numpy()]


class DecoderSession:
    """What that of a merged decoder is, or of one without a cache: keys of the encoder's states are given once."""

    def __init__(self, model: PreTrainedModel, *, cached: bool) -> None:
        self.model, self.fed = model, []
        blocks = range(2 if cached else 0)
        kinds = ("decoder.key", "decoder.value", "encoder.key", "encoder.value")
        self.names = [f"{block}.{kind}" for block in blocks for kind in kinds]
        known = {"encoder_attention_mask": ["batch", "read"], "input_ids": ["batch", "new"]}
        known["encoder_hidden_states"] = ["batch", "read", 32]
        known |= {f"past_key_values.{name}": ["batch", 4, "past", 8] for name in self.names}
        known |= {"use_cache_branch": [1]} if cached else {}
        self.inputs = [SimpleNamespace(name=name, shape=shape) for name, shape in known.items()]

    def get_inputs(self) -> list[Any]:
        return self.inputs

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in ("logits", *(f"present.{name}" for name in self.names))]

    @torch.no_grad()
    def run(self, outputs: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert sorted(feeds) == sorted(value.name for value in self.inputs)
        self.fed.append(feeds["input_ids"].shape[1])
        later = bool(self.names) and bool(feeds["use_cache_branch"][0])
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        for block in range(2 if later else 0):
            for part, store in (("decoder", cache.self_attention_cache), ("encoder", cache.cross_attention_cache)):
                pair = (feeds[f"past_key_values.{block}.{part}.{kind}"] for kind in ("key", "value"))
                store.update(*map(torch.from_numpy, pair), block)
            cache.is_updated[block] = True
        output = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=torch.from_numpy(feeds["encoder_hidden_states"])),
            attention_mask=torch.from_numpy(feeds["encoder_attention_mask"]),
            decoder_input_ids=torch.from_numpy(feeds["input_ids"]),
            past_key_values=cache,
            use_cache=True,
        )
        given = {"logits": output.logits}
        for block in range(len(self.names) // 4):
            for part, store in (("decoder", cache.self_attention_cache), ("encoder", cache.cross_attention_cache)):
                for kind, kept in (("key", store.layers[block].keys), ("value", store.layers[block].values)):
                    empty = later and part == "encoder"  # as Optimum merges decoders
                    given[f"present.{block}.{part}.{kind}"] = kept[:0] if empty else kept
        return [given[name].numpy() for name in outputs]


def graphs_of(model: PreTrainedModel, folder: Path, *, cached: bool = True) -> EncoderDecoder:
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    return EncoderDecoder(EncoderSession(model), DecoderSession(model, cached=cached), folder=folder)  # type: ignore[arg-type]


def written_by(model: PreTrainedModel, batch: dict[str, np.ndarray], **how: Any) -> np.ndarray:
    read = {name: torch.from_numpy(batch[name]) for name in ("input_ids", "attention_mask")}
    made = model.generate(**read, **{"max_new_tokens": NEW, "do_sample": False, "num_beams": 1, **how})
    return made[:, 1:].numpy()


def up_to_end(row: list[int], ends: Any) -> list[int]:
    places = [place for place, token in enumerate(row) if token in np.atleast_1d(ends)]
    return row[: places[0] + 1] if places else row
