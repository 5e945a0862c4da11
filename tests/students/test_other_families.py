"""Students of families beyond the common ones: what is cut is what a naive twin cuts, or they are refused."""

import pytest
import torch
from tiny_models import batch, tiny_model
from torch import nn
from transformers import (
    AlbertConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    Qwen3Config,
    XLMConfig,
)

from distil_nlp.blocks import find_blocks
from distil_nlp.errors import ModelError
from distil_nlp.students import build_student
from distil_nlp.students.axes import find_axes
from distil_nlp.students.importance import by_activations
from distil_nlp.students.sizes import smaller_sizes

INPUTS = {name: batch("masked")[name] for name in ("input_ids", "attention_mask")}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    **IDS,
}


def model_of(config, auto=AutoModelForCausalLM):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = auto.from_config(config).eval()
        for parameter in made.parameters():
            nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.3)
    return made


def logits(model):
    with torch.no_grad():
        return model(**INPUTS).logits


@pytest.mark.parametrize("batches", [None, [INPUTS]], ids=["by_weights", "by_activations"])
def test_dead_groups_of_heads_with_norms_of_their_own(batches):
    """Qwen 3: wide heads, whose queries and keys are normalised; embeddings are tied."""
    teacher = model_of(Qwen3Config(**{**SIZES, "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True}))
    for layer, dead in zip(teacher.model.layers, (1, 0), strict=True):
        attention, rows = layer.self_attn, slice(dead * 32, dead * 32 + 32)
        with torch.no_grad():
            attention.o_proj.weight[:, rows] = 0
            for projection, width in ((attention.q_proj, 32), (attention.k_proj, 16), (attention.v_proj, 16)):
                projection.weight[dead * width : (dead + 1) * width] *= 1e-3  # exact zeros would hide what they are
    student = build_student(teacher, num_heads=2, batches=batches)
    assert (student.config.num_attention_heads, student.config.num_key_value_heads) == (2, 1)
    assert (student.config.head_dim, student.config.hidden_size) == (16, 32)
    torch.testing.assert_close(logits(student), logits(teacher), rtol=1e-5, atol=1e-5)
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight


def test_fused_projections_with_shared_keys_are_cut_in_place():
    """Phi 3: queries of 4 heads, keys of 2, values of 2, in one matrix; gates and neurons in another."""
    teacher = model_of(Phi3Config(**{**SIZES, "num_key_value_heads": 2}))
    with torch.no_grad():
        for layer in teacher.model.layers:
            layer.self_attn.o_proj.weight[:, :16] *= 1e-3  # of the first group
    student = build_student(teacher, hidden_size=16, intermediate_size=20)
    old, new = (model.get_input_embeddings().weight for model in (teacher, student))
    hidden = [next(at for at in range(32) if torch.equal(old[:, at], column)) for column in new.T]
    for before, after in zip(teacher.model.layers, student.model.layers, strict=True):
        rows = [*range(16, 32), *range(40, 48), *range(56, 64)]
        assert torch.equal(after.self_attn.qkv_proj.weight, before.self_attn.qkv_proj.weight[rows][:, hidden])
        assert torch.equal(after.self_attn.o_proj.weight, before.self_attn.o_proj.weight[hidden][:, 16:])
        down = before.mlp.down_proj.weight[hidden]
        neurons = [
            next(at for at in range(48) if torch.equal(down[:, at], column)) for column in after.mlp.down_proj.weight.T
        ]
        gated = [*neurons, *(48 + neuron for neuron in neurons)]
        assert torch.equal(after.mlp.gate_up_proj.weight, before.mlp.gate_up_proj.weight[gated][:, hidden])


def opt():
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48}
    return model_of(OPTConfig(**sizes, max_position_embeddings=64, word_embed_proj_dim=32, **IDS))


def test_activations_of_tokens_that_are_laid_out_one_after_another():
    """OPT's feed-forward layers see ``[batch * tokens, width]``; importance is that of a naive loop all the same."""
    teacher = opt()
    sizes = smaller_sizes(teacher.config, hidden_size=None, num_heads=None, intermediate_size=20)
    found = by_activations(teacher, find_axes(teacher, sizes), [INPUTS])
    seen, layer = [], teacher.model.decoder.layers[1]
    hook = layer.fc2.register_forward_pre_hook(lambda module, args: seen.append(args[0].view(4, 12, 48)))
    logits(teacher)
    hook.remove()
    for neuron in (0, 13, 47):
        total = 0.0
        for row, length in zip(seen[0][..., neuron], INPUTS["attention_mask"].sum(1).tolist(), strict=True):
            total += sum(abs(value.item()) / length for value in row[:length]) ** 2
        expected = total**0.5 * layer.fc2.weight[:, neuron].norm().item()
        assert float(found["model.decoder.layers.1"][neuron]) == pytest.approx(expected, rel=1e-4)
    student = build_student(teacher, hidden_size=16, intermediate_size=20, batches=[INPUTS])
    assert (student.config.hidden_size, student.config.word_embed_proj_dim, student.config.ffn_dim) == (16, 16, 20)


def test_heads_that_are_normalised_together_are_no_parts():
    """OLMo 2: each query depends on the projections of all heads."""
    teacher = model_of(Olmo2Config(**SIZES))
    with pytest.raises(ModelError, match=r"(?s)q_proj' does not give each head channels of its own.*intermediate_size"):
        build_student(teacher, hidden_size=16)
    assert build_student(teacher, intermediate_size=20).config.intermediate_size == 20


def albert(groups):
    sizes = {**SIZES, "num_hidden_layers": 4, "num_hidden_groups": groups, "embedding_size": 16, "num_labels": 3}
    return model_of(AlbertConfig(**sizes), AutoModelForSequenceClassification)


@pytest.mark.parametrize("layers", [[1, 3], [2, 4], [1, 2, 3, 4], [1], [2]])
def test_blocks_run_with_the_weights_of_their_group(layers):
    teacher = albert(2)
    student = build_student(teacher, layers=layers)
    with torch.no_grad():
        states = teacher.albert.encoder.embedding_hidden_mapping_in(teacher.albert.embeddings(INPUTS["input_ids"]))
        for layer in layers:
            made = teacher.albert.encoder.albert_layer_groups[(layer - 1) // 2](states)
            states = made[0] if isinstance(made, tuple) else made
        torch.testing.assert_close(student.albert(INPUTS["input_ids"]).last_hidden_state, states)


@pytest.mark.parametrize(("layers", "words"), [([1, 2], r"groups \[1, 1\].*\[1, 2\]"), ([4], r"groups \[2\].*\[1\]")])
def test_blocks_that_would_run_with_those_of_another_group_are_refused(layers, words):
    with pytest.raises(ModelError, match=words):
        build_student(albert(2), layers=layers)
    assert build_student(albert(1), layers=layers).config.num_hidden_layers == len(layers)


def test_blocks_whose_parts_lie_in_several_lists_are_refused():
    """XLM: taking one of them for the blocks would give other hidden states than transformers does."""
    model = model_of(XLMConfig(vocab_size=64, emb_dim=32, n_layers=4, n_heads=4), AutoModelForMaskedLM)
    with pytest.raises(ModelError, match=r"(?s)transformer\.attentions, transformer\.layer_norm1.*one list"):
        find_blocks(model)
    assert find_blocks(tiny_model("bert", num_hidden_layers=1)).path == "bert.encoder.layer"
