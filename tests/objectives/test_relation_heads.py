"""How wide attention is, and which numbers of relation heads minilm_v2 takes."""

import dataclasses
from functools import cache

import pytest
import torch
from tiny_models import FAMILIES, batch, tiny_model
from tiny_objectives import make, run
from transformers import AutoConfig, AutoModelForCausalLM, MobileBertConfig, MobileBertForSequenceClassification

from distil_nlp.blocks import describe
from distil_nlp.capture import capture, prepare_attention
from distil_nlp.errors import ModelError
from distil_nlp.objectives import MiniLMv2
from distil_nlp.signals import Needs


def seen_widths(model, item="example"):
    """Widths of queries, keys and values of all query heads together, in every block."""
    prepare_attention(model, "student")
    needs = Needs(attentions=frozenset(range(1, model.config.num_hidden_layers + 1)))
    with torch.no_grad():
        attentions = capture(model, batch(item), needs).attentions.values()
    return {
        each.query.shape[1] * vectors.shape[3] for each in attentions for vectors in (each.query, each.key, each.value)
    }


def observable(*models):
    for model in models:
        prepare_attention(model, "student")
    return models


@pytest.mark.parametrize(
    ("family", "config"),
    [
        *((family, {}) for family in FAMILIES if family != "deberta-v2"),
        ("llama", {"head_dim": 16}),
        ("llama", {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 6}),
    ],
)
def test_attention_width_is_that_of_what_attention_is_given(family, config):
    item = "next_token" if family in ("gpt2", "llama") else "example"
    model = tiny_model(family, item, **config)
    shape = describe(model)
    if not shape.attention_inputs:
        pytest.skip(f"{family} does not use AttentionInterface in this version of transformers")
    assert seen_widths(model, item) == {shape.attention_width}


def test_attention_width_is_left_open_where_a_configuration_does_not_give_it():
    latent = AutoConfig.for_model(
        "deepseek_v3",
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        n_routed_experts=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        first_k_dense_replace=2,
        moe_intermediate_size=8,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=8,
        v_head_dim=16,
        n_group=1,
        topk_group=1,
        num_experts_per_tok=1,
    )
    model = AutoModelForCausalLM.from_config(latent).eval()
    assert describe(model).attention_width is None
    assert len(seen_widths(model, "next_token")) == 2  # values are wider than queries
    bottleneck = MobileBertConfig(
        vocab_size=64,
        hidden_size=32,
        intra_bottleneck_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        embedding_size=16,
    )
    assert describe(MobileBertForSequenceClassification(bottleneck)).attention_width is None


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48])
def test_bind_takes_the_numbers_that_a_batch_would_take(heads):
    student, teacher = _narrow_and_wide()
    shapes = describe(student), describe(teacher)
    fits = 24 % heads == 0 and 32 % heads == 0
    if not fits:
        with pytest.raises(ModelError, match=r"Set relation_heads to one of 1, 2, 4, 8\.$"):
            MiniLMv2(relation_heads=heads).bind(*shapes)
    objective = MiniLMv2(relation_heads=heads)
    unknown = [dataclasses.replace(shape, attention_width=None) for shape in shapes]
    objective.bind(*unknown)
    ours, theirs = (
        capture(model, make(), needs)
        for model, needs in ((student, objective.student_needs), (teacher, objective.teacher_needs))
    )
    if fits:
        assert torch.isfinite(run(MiniLMv2(relation_heads=heads), student, teacher, make()))
    else:
        with pytest.raises(ModelError, match=f"which {heads} does not divide"):
            objective(ours, theirs, make())


def test_the_refusal_says_which_model_does_not_fit():
    student, teacher = (describe(model) for model in _narrow_and_wide())
    with pytest.raises(ModelError) as refused:
        MiniLMv2(relation_heads=16).bind(student, teacher)
    assert "student together are 24 wide, which 16 does not divide" in str(refused.value)
    assert "teacher" not in str(refused.value)
    with pytest.raises(ModelError, match=r"student together are 24 wide.*teacher together are 32 wide"):
        MiniLMv2(relation_heads=5).bind(student, teacher)


def test_the_teachers_number_of_heads_is_refused_like_any_other():
    student, teacher = tiny_model(hidden_size=24), tiny_model(num_attention_heads=16)
    objective = MiniLMv2()
    with pytest.raises(
        ModelError, match="16 relation heads, the teacher's number of heads, since relation_heads is left"
    ):
        objective.bind(describe(student), describe(teacher))
    assert objective.relation_heads is None
    objective.bind(describe(student), describe(tiny_model(num_attention_heads=8)))
    assert objective.relation_heads == 8


def test_heads_wider_than_the_hidden_state_allow_more_relation_heads():
    student, teacher = observable(
        tiny_model("llama", "next_token", seed=1, head_dim=16), tiny_model("llama", "next_token", seed=2)
    )
    with pytest.raises(ModelError, match="teacher together are 32 wide, which 64 does not divide"):
        MiniLMv2(relation_heads=64).bind(describe(student), describe(teacher))
    assert MiniLMv2(relation_heads=64).bind(describe(student), describe(student)) is None
    assert run(MiniLMv2(relation_heads=64), student, student, make("next_token")).abs() < 1e-6
    assert run(MiniLMv2(relation_heads=32), student, teacher, make("next_token")) > 0


@cache
def _narrow_and_wide():
    return observable(tiny_model(seed=1, hidden_size=24), tiny_model(seed=2))
