import pytest
from tiny_models import tiny_model
from tiny_seq2seq import tiny_seq2seq
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    MixtralConfig,
    MixtralForCausalLM,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from distil_nlp.students import build_student, describe_student


def multiply_adds(layers, width, neurons, tokens):
    """By hand: four projections, two feed-forward layers, scores and their use; a pooler and a head per text."""
    blocks = layers * (4 * width**2 + 2 * width * neurons + 2 * tokens * width)
    return blocks + (width**2 + 3 * width) / tokens


def test_counts_are_those_by_hand_and_print():
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=48, num_labels=3
    )
    teacher = BertForSequenceClassification(config)
    student = build_student(teacher, num_layers=2, hidden_size=16, intermediate_size=24)
    found = describe_student(teacher, student, tokens=20)
    assert found.teacher.multiply_adds == pytest.approx(multiply_adds(4, 32, 48, 20))
    assert found.student.multiply_adds == pytest.approx(multiply_adds(2, 16, 24, 20))
    assert found.teacher.parameters == sum(p.numel() for p in teacher.parameters())
    assert found.student.size_mb == found.student.parameters * 4 / 1e6
    lines = str(found).splitlines()
    assert f"{found.teacher.parameters:,} -> " in lines[0]
    assert f"{found.student.parameters / found.teacher.parameters:.1%}" in lines[0]
    assert "20 tokens" in lines[-1]
    assert describe_student(teacher, student).tokens == 128
    assert teacher.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("family", ["roberta", "gpt2", "llama", "deberta-v2", "albert"])
def test_half_the_blocks_cost_less_than_the_whole(family):
    teacher = tiny_model(family, "next_token" if family in ("gpt2", "llama") else "masked").train()
    found = describe_student(teacher, build_student(teacher, num_layers=2))
    assert found.tokens == 32  # of 64 positions
    assert 0 < found.student.multiply_adds < found.teacher.multiply_adds
    assert teacher.training


def test_encoder_decoders_are_counted_with_both_stacks():
    teacher = tiny_seq2seq("t5", num_layers=4, d_model=32, d_kv=8, num_heads=4, d_ff=48)
    found = describe_student(teacher, build_student(teacher, decoder_layers=2), tokens=10)
    saved = found.teacher.multiply_adds - found.student.multiply_adds
    assert saved == pytest.approx(2 * (8 * 32**2 + 2 * 32 * 48 + 4 * 10 * 32))


def test_experts_are_counted_as_often_as_a_token_goes_to_one():
    width, neurons, experts, chosen, tokens = 32, 48, 4, 2, 16
    config = MixtralConfig(
        vocab_size=60,
        hidden_size=width,
        intermediate_size=neurons,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=experts,
        num_experts_per_tok=chosen,
    )
    teacher = MixtralForCausalLM(config)
    before = teacher.config._experts_implementation
    found = describe_student(teacher, build_student(teacher, num_layers=1), tokens=tokens)
    attention = 2 * width**2 + 2 * width * width // 2 + 2 * tokens * width  # keys and values are half as wide
    block = attention + width * experts + chosen * 3 * width * neurons  # a router; gate, up and down
    # Early transformers 5 make the angles of positions by a small product, too.
    assert found.teacher.multiply_adds == pytest.approx(3 * block + width * 60, rel=2e-4)
    assert found.student.multiply_adds == pytest.approx(block + width * 60, rel=5e-4)
    assert teacher.config._experts_implementation == before


def test_a_model_of_any_length_is_counted_on_128_tokens():
    """XLNet says -1 for its number of positions."""
    config = XLNetConfig(vocab_size=60, d_model=32, n_layer=4, n_head=4, d_inner=48)
    assert config.max_position_embeddings == -1
    teacher = XLNetForSequenceClassification(config)
    found = describe_student(teacher, build_student(teacher, num_layers=2))
    assert found.tokens == 128
    assert 0 < found.student.multiply_adds < found.teacher.multiply_adds
