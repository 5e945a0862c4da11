"""What a decoder's special tokens and generation settings must not keep from it: its training, and its saving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_language import decoder_tokenizer
from tiny_models import batch, tiny_model
from transformers import AutoModelForCausalLM, TrainingArguments

from distil_nlp.training import DistillationTrainer


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"temperature": 0.6, "top_p": 0.9}, {}),
        (
            {"do_sample": False, "num_beams": 1, "length_penalty": 2.0, "min_p": 0.1},
            {"do_sample": False, "num_beams": 1},
        ),
        ({"do_sample": True, "temperature": 0.6}, {"do_sample": True, "temperature": 0.6}),
        ({"num_beams": 4, "length_penalty": 2.0}, {"num_beams": 4, "length_penalty": 2.0}),
    ],
    ids=str,
)
def test_settings_that_are_ignored_do_not_keep_it_from_being_saved(
    settings: dict[str, Any], kept: dict[str, Any], tmp_path: Path
) -> None:
    """The trainer gives it the tokenizer's padding token; transformers then checks all that it saves."""
    tokenizer = decoder_tokenizer()
    model = tiny_model("llama", "next_token", vocab_size=len(tokenizer), pad_token_id=None)
    model.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **settings}), encoding="utf-8")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    rows = Dataset.from_list([{"input_ids": [3, 4, 5], "labels": [3, 4, 5]}] * 2)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"), max_steps=1, report_to=[], use_cpu=True, disable_tqdm=True
    )
    trainer = DistillationTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    saved = json.loads((tmp_path / "saved" / "generation_config.json").read_text(encoding="utf-8"))
    assert saved["pad_token_id"] == tokenizer.pad_token_id
    assert {name: saved[name] for name in settings if saved.get(name) is not None} == kept


@pytest.mark.parametrize("tied", [False, True])
def test_the_end_of_text_is_trained_though_it_is_the_padding_too(tied: bool, tmp_path: Path) -> None:
    """A text goes on behind it, packed or in the next turn of a conversation; the twin has no padding token."""
    gradients, made = [], batch("next_token", lengths=(12, 7, 9, 3))
    made["input_ids"][:, 1] = 2  # the end of a first text; behind the last it pads
    made["input_ids"][made["attention_mask"] == 0] = 2
    for padding in (2, None):
        model = tiny_model("llama", "next_token", pad_token_id=padding, eos_token_id=2, tie_word_embeddings=tied)
        model.load_state_dict(tiny_model("llama", "next_token", tie_word_embeddings=tied).state_dict())
        arguments = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
        DistillationTrainer(model=model, args=arguments).compute_loss(model.train(), made).backward()
        gradients.append(model.get_input_embeddings().weight.grad)
    torch.testing.assert_close(*gradients)
    assert gradients[0][2].abs().max() > 0
