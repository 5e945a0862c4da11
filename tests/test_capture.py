import copy

import pytest
import torch
from tiny_models import FAMILIES, batch, tiny_model
from transformers import Gemma2Config, Gemma2ForCausalLM

from distil_nlp.blocks import describe
from distil_nlp.capture import ATTENTION_NAME, capture, prepare_attention
from distil_nlp.errors import ModelError
from distil_nlp.functional.attention import attention_probabilities
from distil_nlp.signals import Needs

ALL = Needs(logits=True, hidden_states=frozenset(range(5)), attentions=frozenset(range(1, 5)))


def inputs(**kwargs):
    made = batch(**kwargs)
    return {name: made[name] for name in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_what_eager_transformers_gives(family):
    model = tiny_model(family)
    twin = copy.deepcopy(model)
    twin.config._attn_implementation = "eager"
    made = inputs()
    with torch.no_grad():
        expected = twin(**made, output_hidden_states=True, output_attentions=True)
        prepare_attention(model, "teacher")
        got = capture(model, made, ALL)
    torch.testing.assert_close(got.logits, expected.logits)
    mask = made["attention_mask"].bool()
    for number in range(5):
        torch.testing.assert_close(got.hidden_states[number][mask], expected.hidden_states[number][mask])
    for block in range(1, 5):
        for example, length in enumerate((12, 7, 9, 3)):
            maps = attention_probabilities(got.attentions[block], example, slice(0, length))
            torch.testing.assert_close(maps, expected.attentions[block - 1][example][:, :length, :length])


@pytest.mark.parametrize("family", FAMILIES)
def test_runs_no_further_than_needed(family):
    model = tiny_model(family)
    ran = []
    blocks = [m for n, m in model.named_modules() if type(m).__name__.endswith(("Layer", "Block")) and n]
    for module in blocks:
        module.register_forward_hook(lambda *_: ran.append(1))
    everything = capture(model, inputs(), Needs(logits=True, hidden_states=frozenset([2])))
    full = len(ran)
    ran.clear()
    early = capture(model, inputs(), Needs(hidden_states=frozenset([2])))
    assert 0 < len(ran) < full
    assert early.output is None
    torch.testing.assert_close(early.hidden_states[2], everything.hidden_states[2])


def test_the_last_hidden_state_spares_the_head():
    model = tiny_model()
    model.classifier.register_forward_hook(lambda *_: pytest.fail("the head ran"))
    assert set(capture(model, inputs(), Needs(hidden_states=frozenset([4]))).hidden_states) == {4}


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_sdpa_is_kept_and_unneeded_blocks_are_not_recorded(family):
    model = tiny_model(family)
    before = model(**inputs()).logits
    prepare_attention(model, "student")
    got = capture(model, inputs(), Needs(logits=True, attentions=frozenset([2])))
    assert set(got.attentions) == {2}
    assert got.hidden_states == {}
    assert torch.equal(got.logits, before)


def test_a_causal_model_without_padding_has_causal_maps():
    """Its mask is None then; the maps are causal all the same."""
    model = tiny_model("llama", "next_token")
    prepare_attention(model, "student")
    made = inputs(lengths=(12, 12, 12, 12))
    got = capture(model, made, Needs(attentions=frozenset([1])))
    maps = attention_probabilities(got.attentions[1], 0, slice(0, 12))
    assert torch.equal(maps, maps.tril())


def test_maps_are_taken_before_dropout():
    model = tiny_model(attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.0).train()
    prepare_attention(model, "student")
    got = capture(model, inputs(), Needs(attentions=frozenset([1])))
    maps = attention_probabilities(got.attentions[1], 0, slice(0, 12))
    torch.testing.assert_close(maps.sum(-1), torch.ones_like(maps.sum(-1)))


def test_gradient_checkpointing_changes_nothing():
    grads = []
    for checkpointing in (False, True):
        model = tiny_model().train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        prepare_attention(model, "student")
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        got = capture(model, inputs(), ALL)
        query = got.attentions[2].query
        (got.logits.sum() + got.hidden_states[2].square().sum() + query.square().sum()).backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad)


def test_flash_attention_is_refused_with_the_line_to_change():
    model = tiny_model()
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ModelError, match="attn_implementation='sdpa'"):
        prepare_attention(model, "teacher")


def test_observing_leaves_no_trace_in_what_is_saved(tmp_path):
    model = tiny_model()
    prepare_attention(model, "student")
    model.save_pretrained(tmp_path)
    assert ATTENTION_NAME not in (tmp_path / "config.json").read_text()


def test_an_unprepared_model_is_an_error():
    with pytest.raises(ModelError, match="prepare_attention"):
        capture(tiny_model(), inputs(), Needs(attentions=frozenset([1])))


def test_a_model_without_sdpa_gives_its_finished_maps():
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
    sizes |= {"num_key_value_heads": 2, "intermediate_size": 48, "pad_token_id": 0, "query_pre_attn_scalar": 8}
    torch.manual_seed(0)
    config = Gemma2Config(**sizes, initializer_range=0.3, attn_logit_softcapping=5.0)
    model = Gemma2ForCausalLM._from_config(config, attn_implementation="eager").eval()
    made = {name: value for name, value in batch("next_token").items() if name != "labels"}
    with torch.no_grad():
        expected = model(**made, output_attentions=True)
        prepare_attention(model, "teacher")
        got = capture(model, made, Needs(logits=True, attentions=frozenset({2})))
    torch.testing.assert_close(got.logits, expected.logits)
    torch.testing.assert_close(got.attentions[2].probabilities, expected.attentions[1])
    assert not describe(model).attention_inputs
