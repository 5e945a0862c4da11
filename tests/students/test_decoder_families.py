"""Students of decoders of many kinds: each is its teacher with blocks left out, and writes the same with a cache."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
)

from distil_nlp.blocks import find_blocks
from distil_nlp.students import build_student

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_WINDOW = {"sliding_window": 4}
FAMILIES: dict[str, dict[str, Any]] = {  # blocks differ by what their place in a list of the configuration says
    "gpt2": {},
    "llama": {},
    "mistral": _WINDOW,
    "qwen2": {**_WINDOW, "use_sliding_window": True, "max_window_layers": 2},
    "qwen3": {**_WINDOW, "use_sliding_window": True, "max_window_layers": 2, "head_dim": 16},
    "gemma3_text": {**_WINDOW, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "gpt_neo": {"window_size": 4, "attention_types": [[["global", "local"], 2]]},
    "smollm3": {"no_rope_layers": [1, 1, 0, 1]},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "granite_swa": {**_WINDOW, "layer_rope_theta": [1e4, 1e2, 1e4, 1e1]},
    "gemma4_text": {
        **_WINDOW,
        "head_dim": 8,
        "global_head_dim": 16,
        "hidden_size_per_layer_input": 4,
        "vocab_size_per_layer_input": 64,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "minicpm3": {
        "num_key_value_heads": 4,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
    },
}
IDS = torch.randint(5, 64, (2, 12), generator=torch.Generator().manual_seed(0))


def teacher_of(family: str) -> PreTrainedModel:
    if family not in CONFIG_MAPPING:
        pytest.skip("this transformers does not know it")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **{**SIZES, **FAMILIES[family]})
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.data.normal_(0.0, 0.25)
    return model


def without(teacher: PreTrainedModel, kept: list[int]) -> PreTrainedModel:
    """A copy whose other blocks pass on what they are given, alone or with nothing beside it, as blocks do it."""
    twin, given = copy.deepcopy(teacher), []
    hook = find_blocks(teacher).modules[0].register_forward_hook(lambda block, inputs, output: given.append(output))
    teacher(IDS, use_cache=False)
    hook.remove()

    def passing(hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        return hidden_states if isinstance(given[0], torch.Tensor) else (hidden_states, None)

    for number, block in enumerate(find_blocks(twin).modules, start=1):
        if number not in kept:
            block.forward = passing
    return twin


def written(model: PreTrainedModel, *, cache: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """A text, and the logits of each of its tokens: a random model may repeat itself."""
    how = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "use_cache": cache}
    how |= {"output_logits": True, "return_dict_in_generate": True}
    made: Any = model.generate(IDS[:, :5], attention_mask=torch.ones_like(IDS[:, :5]), **how)  # type: ignore[operator]
    return made.sequences, torch.stack(made.logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_is_its_teacher_without_some_blocks(family: str, tmp_path: Path) -> None:
    teacher = teacher_of(family)
    for kept in ([1, 4], [2, 3, 4]):
        student = build_student(teacher, layers=kept)
        with torch.no_grad():
            got = student(IDS, use_cache=False).logits
            expected = without(teacher, kept)(IDS, use_cache=False).logits
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        student.save_pretrained(tmp_path)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
        text, *others = written(student, cache=False), written(student, cache=True), written(loaded, cache=True)
        for other in others:
            assert torch.equal(text[0], other[0])
            torch.testing.assert_close(text[1], other[1], rtol=1e-4, atol=1e-4)


def test_gpt_neos_settings_agree() -> None:
    """transformers 4, which Optimum exports with, goes by the types alone."""
    config = build_student(teacher_of("gpt_neo"), layers=[1, 3, 4]).config
    assert config.expand_attention_types_params(config.attention_types) == ["global", "global", "local"]
    assert config.attention_layers == ["global", "global", "local"]


def test_longformers_windows_follow_their_blocks() -> None:
    windows = [2, 4, 6, 8]
    config = AutoConfig.for_model("longformer", **{**SIZES, "attention_window": windows})
    student = build_student(AutoModelForMaskedLM.from_config(config), layers=[1, 4])
    assert student.config.attention_window == [2, 8]


@pytest.mark.parametrize(
    ("request_", "windows"), [({"layers": [1, 4]}, [2, 8]), ({"decoder_layers": 2}, [2, 4, 6, 8])], ids=str
)
def test_leds_windows_are_its_encoders(request_: dict[str, Any], windows: list[int]) -> None:
    sizes = {"d_model": 16, "encoder_layers": 4, "decoder_layers": 4, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "attention_window": [2, 4, 6, 8]}
    config = AutoConfig.for_model("led", vocab_size=64, pad_token_id=0, **sizes, **heads)
    student = build_student(AutoModelForSeq2SeqLM.from_config(config), **request_)
    assert student.config.attention_window == windows
    assert student.config.decoder_layers == 2
