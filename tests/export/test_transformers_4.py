"""Configs of transformers 5 that transformers 4 must read the same way."""

from __future__ import annotations

import pytest

from distil_nlp.export.transformers_4 import to_transformers_4

DEFAULT = {"rope_type": "default", "rope_theta": 500.0}


def test_base_moves_to_the_top_and_the_rest_stays():
    config = {"model_type": "llama", "hidden_size": 8, "rope_parameters": DEFAULT}
    assert to_transformers_4(config) == {"model_type": "llama", "hidden_size": 8, "rope_theta": 500.0}
    assert config["rope_parameters"] == DEFAULT


def test_whether_a_t5_scales_is_said_by_its_tie() -> None:
    scaled = {"model_type": "t5", "tie_word_embeddings": True, "scale_decoder_outputs": True}
    assert to_transformers_4(scaled)["tie_word_embeddings"]
    assert not to_transformers_4({**scaled, "scale_decoder_outputs": False})["tie_word_embeddings"]
    assert not to_transformers_4({"model_type": "mt5", "tie_word_embeddings": True})["tie_word_embeddings"]
    assert to_transformers_4({"model_type": "bart", "tie_word_embeddings": True})["tie_word_embeddings"]


def test_scaling_keeps_its_type_and_factors():
    rope = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0}
    translated = to_transformers_4({"model_type": "llama", "rope_parameters": rope})
    assert translated["rope_theta"] == 500.0
    assert translated["rope_scaling"] == {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("phi", {"rope_theta": 500.0, "partial_rotary_factor": 0.5}),
        ("gpt_neox", {"rotary_emb_base": 500.0, "rotary_pct": 0.5}),
    ],
)
def test_rotated_share(model_type, expected):
    rope = DEFAULT | {"partial_rotary_factor": 0.5}
    config = {"model_type": model_type, "rope_parameters": rope}
    assert to_transformers_4(config) == expected | {"model_type": model_type}


@pytest.mark.parametrize(
    ("model_type", "full", "sliding"),
    [
        ("modernbert", "global_rope_theta", "local_rope_theta"),
        ("gemma3_text", "rope_theta", "rope_local_base_freq"),
    ],
)
def test_two_bases(model_type, full, sliding):
    rope = {"full_attention": DEFAULT, "sliding_attention": DEFAULT | {"rope_theta": 7.0}}
    translated = to_transformers_4({"model_type": model_type, "rope_parameters": rope})
    assert translated == {"model_type": model_type, full: 500.0, sliding: 7.0}


def test_models_without_rotary_positions_pass_unchanged():
    assert to_transformers_4({"model_type": "bert"}) == {"model_type": "bert"}
