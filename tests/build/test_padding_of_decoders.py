"""A decoder's classifier reads a row's last token, which it finds by the padding that its configuration names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import WORDS, Case, build_tokenizer, write_rows
from transformers import LlamaConfig, LlamaForCausalLM, RobertaConfig

from distil_nlp.build import Assembly
from distil_nlp.data.align import fit_padding
from distil_nlp.recipe import Recipe


@pytest.mark.parametrize("named", ["[UNK]", None])
def test_it_is_the_padding_that_rows_get(tmp_path: Path, named: str | None) -> None:
    tokenizer = build_tokenizer()
    ids = tokenizer.get_vocab()
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(
        **sizes,
        vocab_size=len(WORDS),
        intermediate_size=48,
        pad_token_id=None if named is None else ids[named],
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    case = Case(tmp_path, tmp_path / "model", write_rows(tmp_path / "rows.csv"))
    parts = Assembly(Recipe.load(case.recipe(tmp_path / "recipe")))
    teacher = parts.teacher(parts.recipe.teacher).eval()
    assert teacher.config.pad_token_id == parts.tokenizer.pad_token_id
    with torch.no_grad():
        alone = [teacher(torch.tensor([row["input_ids"]])).logits.numpy() for row in parts.rows["test"]]
    batches = parts.batches(parts.rows["test"])
    together = batches.outputs(parts.forward(teacher), lambda output, _: list(output["logits"][:, None]))
    np.testing.assert_allclose(together.values, np.concatenate(alone), rtol=1e-4, atol=1e-5)


def test_positions_that_begin_after_the_padding_keep_theirs() -> None:
    config = RobertaConfig(pad_token_id=1)
    fit_padding(config, build_tokenizer())
    assert config.pad_token_id == 1
