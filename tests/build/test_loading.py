"""A GGUF file is loaded as an ordinary model: one that can be trained, saved, and made a student of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_language import decoder_tokenizer
from tiny_models import tiny_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from distil_nlp.build.loading import Loader
from distil_nlp.recipe.sections import ModelReference
from distil_nlp.students import build_student

gguf = pytest.importorskip("gguf")
Q8 = gguf.GGMLQuantizationType.Q8_0

NAMES = {  # of llama.cpp
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def rounded(model: PreTrainedModel) -> PreTrainedModel:
    """The model with weights that 8-bit integers can say."""
    for tensor in model.state_dict().values():
        if tensor.ndim == 2:
            tensor.copy_(torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(tensor.numpy(), Q8), Q8)))
    return model


def write_gguf(path: Path, model: PreTrainedModel) -> None:
    """A Llama with its tokenizer, matrices in blocks of 8-bit integers."""
    config, tokenizer = model.config, decoder_tokenizer(None)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    merges = __import__("json").loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokenizer.convert_tokens_to_ids("<|start|>"))
    writer.add_eos_token_id(tokenizer.eos_token_id)
    for name, tensor in model.state_dict().items():
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        values = tensor.numpy()
        for part, heads in (("attn_q", config.num_attention_heads), ("attn_k", config.num_key_value_heads)):
            if part in name:  # halves of rotated pairs lie side by side there
                shape = (heads, 2, len(values) // heads // 2, values.shape[1])
                values = values.reshape(shape).swapaxes(1, 2).reshape(values.shape)
        name = name.replace("model.layers", "blk")
        if values.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(values, Q8), raw_dtype=Q8)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_becomes_an_ordinary_model(tmp_path: Path) -> None:
    sizes = {"vocab_size": 360, "hidden_size": 64, "intermediate_size": 96, "initializer_range": 0.3}
    made = rounded(tiny_model("llama", "next_token", **sizes))
    write_gguf(tmp_path / "tiny.Q8_0.gguf", made)
    loader, reference = Loader(lambda line: None), ModelReference(model=str(tmp_path / "tiny.Q8_0.gguf"))
    loaded = loader.model(reference, AutoModelForCausalLM)
    ids = torch.arange(12).unsqueeze(0)
    with torch.no_grad():
        given, expected = loaded(ids).logits, made(ids).logits
    np.testing.assert_allclose(given, expected, atol=1e-3 * float(expected.abs().max()))
    loaded(ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())
    loaded.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert all(
        torch.equal(*pair) for pair in zip(loaded.state_dict().values(), again.state_dict().values(), strict=True)
    )
    build_student(loaded, num_layers=2).save_pretrained(tmp_path / "student")
    tokenizer = loader.tokenizer(reference)  # early transformers 5 put a token before each text
    assert tokenizer("the dog barks")["input_ids"][-3:] == decoder_tokenizer(None)("the dog barks")["input_ids"]
    assert tokenizer.pad_token == tokenizer.eos_token
