"""Blocks that are not alike: a student has the teacher's blocks as they are, or is refused."""

import pytest
import torch
from test_decoder_families import IDS, SIZES, without
from torch.testing import assert_close
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from distil_nlp.errors import ModelError
from distil_nlp.students import build_student

_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_routed_experts": 4, "n_group": 1, "topk_group": 1}
_LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
_LINEAR = {f"linear_{part}": size for part, size in (("num_key_heads", 2), ("num_value_heads", 2))}
_LINEAR |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "head_dim": 16}
FIRST_DENSE = {
    "deepseek_v3": {**_EXPERTS, **_LATENT, "num_key_value_heads": 4, "first_k_dense_replace": 1},
    "glm4_moe": {**_EXPERTS, "head_dim": 8, "first_k_dense_replace": 1},
    "qwen2_moe": {
        "mlp_only_layers": [0],
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "llama4_text": {
        "head_dim": 8,
        "intermediate_size_mlp": 48,
        "num_local_experts": 2,
        "moe_layers": [1, 2, 3],
        "attention_chunk_size": 4,
    },
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8, "attn_layer_indices": [1, 3]},
}


def teacher_of(family, **config):
    if family not in CONFIG_MAPPING:
        pytest.skip("this transformers does not know it")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**SIZES, **config})).eval()
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.data.normal_(0.0, 0.25)
    return model


def check_same(teacher, kept):
    student = build_student(teacher, layers=kept)
    with torch.no_grad():
        got, expected = (model(IDS, use_cache=False).logits for model in (student, without(teacher, kept)))
    assert_close(got, expected, rtol=1e-4, atol=1e-4)
    return student


@pytest.mark.parametrize("family", FIRST_DENSE)
def test_a_first_block_is_not_made_of_halves(family):
    with pytest.raises(ModelError, match=r"(?s)block 2 was asked.*another kind.*layers=\[1, \.\.\.\]"):
        build_student(teacher_of(family, **FIRST_DENSE[family]), layers=[2, 4])


@pytest.mark.parametrize("family", ["deepseek_v3", "glm4_moe", "qwen2_moe"])
def test_with_the_first_block_the_others_are_as_they_were(family):
    check_same(teacher_of(family, **FIRST_DENSE[family]), [1, 3])


NUMBERED = {"gpt2": ({"scale_attn_by_inverse_layer_idx": True}, "scaling"), "diffllama": ({}, "lambda_init")}


@pytest.mark.parametrize("family", NUMBERED)
@pytest.mark.parametrize("kept", [[2, 4], [1, 3], [2, 1]], ids=str)
def test_blocks_that_compute_with_their_number_stay_in_place(family, kept):
    config, name = NUMBERED[family]
    teacher = teacher_of(family, **config)
    with pytest.raises(ModelError, match=rf"(?s){name}=.*block's number.*layers='first'"):
        build_student(teacher, layers=kept)
    for first in (1, 2, 3):
        check_same(teacher, list(range(1, first + 1)))


def test_what_a_user_switched_in_the_teacher_does_not_count():
    teacher = teacher_of("gpt2")
    for module in teacher.transformer.h[1].modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.7
    teacher.transformer.h[1].gradient_checkpointing = True
    assert len(build_student(teacher, layers=[2, 4]).transformer.h) == 2


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("qwen3_5_text", _LINEAR),
        ("qwen3_next", {**_LINEAR, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}),
        ("lfm2", {"layer_types": ["conv", "conv", "conv", "full_attention"]}),
    ],
)
def test_a_student_has_attention_if_the_teacher_has(family, config):
    teacher = teacher_of(family, **config)
    with pytest.raises(ModelError, match=r"(?s)none of them attends.*\[4\]"):
        build_student(teacher, num_layers=2, layers="first")
    student = check_same(teacher, [1, 4])
    assert student(IDS).logits.shape == (2, 12, 64)


def test_a_window_is_attention():
    types = ["sliding_attention", "full_attention"] * 2
    student = check_same(teacher_of("gemma3_text", head_dim=8, sliding_window=4, layer_types=types), [1, 3])
    assert student(IDS).logits.shape == (2, 12, 64)


GEMMA_4 = {
    "num_hidden_layers": 6,
    "layer_types": ["sliding_attention", "full_attention"] * 3,
    "num_kv_shared_layers": 2,
    "sliding_window": 4,
    "head_dim": 8,
    "global_head_dim": 16,
    "hidden_size_per_layer_input": 4,
    "vocab_size_per_layer_input": 64,
}


@pytest.mark.parametrize(("kept", "shared"), [([3, 4, 6], 1), ([1, 3, 4, 5, 6], 2)], ids=str)
def test_shared_keys_are_those_of_the_same_block(kept, shared, tmp_path):
    student = check_same(teacher_of("gemma4_text", **GEMMA_4), kept)
    assert student.config.num_kv_shared_layers == shared
    student.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert_close(loaded(IDS).logits, student(IDS).logits)


@pytest.mark.parametrize("kept", [[1, 2, 6], [1, 4, 5, 6]], ids=str)
def test_keys_of_another_block_are_refused(kept):
    with pytest.raises(ModelError, match="store_full_length_kv"):
        build_student(teacher_of("gemma4_text", **GEMMA_4), layers=kept)


def test_a_last_block_that_would_be_loaded_as_another_is_refused():
    with pytest.raises(ModelError, match=r"layers=\[\.\.\., -1\]"):
        build_student(teacher_of("gemma4_text", **{**GEMMA_4, "num_kv_shared_layers": 0}), layers=[1, 3])
