"""Models whose blocks are not all alike, or do not all run."""

import pytest
import torch
from tiny_models import VOCAB, batch
from tiny_training import few_steps
from transformers import (
    BartConfig,
    BartForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LongformerConfig,
    LongformerForSequenceClassification,
    MambaConfig,
    MambaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    XLNetConfig,
    XLNetForSequenceClassification,
    XLNetLMHeadModel,
)

from distil_nlp.blocks import describe
from distil_nlp.capture import capture, prepare_attention
from distil_nlp.errors import ModelError
from distil_nlp.functional.attention import Scores, attention_probabilities
from distil_nlp.objectives import Attentions, Embeddings, HiddenStates, LogitsKL
from distil_nlp.signals import Needs, SelfAttention
from distil_nlp.training import DistillationTrainer

SMALL = {"vocab_size": VOCAB, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 4, "pad_token_id": 0}


def hybrid(seed=0):
    torch.manual_seed(seed)
    kinds = ["conv", "full_attention", "conv", "full_attention"]
    return Lfm2ForCausalLM(Lfm2Config(**SMALL, num_key_value_heads=2, intermediate_size=48, layer_types=kinds)).eval()


def opt(layerdrop, seed=0):
    torch.manual_seed(seed)
    return OPTForCausalLM(OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=32, layerdrop=layerdrop))


def bart(layerdrop):
    sizes = {"vocab_size": VOCAB, "d_model": 32, "encoder_layers": 4, "decoder_layers": 4, "decoder_attention_heads": 4}
    return BartForCausalLM(BartConfig(**sizes, decoder_ffn_dim=48, decoder_layerdrop=layerdrop))


def trainer(folder, student, teacher, objective):
    rows = [{"input_ids": [5, 6, 7, 8], "attention_mask": [1] * 4, "labels": [5, 6, 7, 8]}] * 8
    return DistillationTrainer(
        student, teacher=teacher, objectives=[objective], args=few_steps(folder), train_dataset=rows
    )


def test_a_block_without_attention_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"(?s)self-attention of block 1, 3 of Lfm2.*convolution.*`mapping`"):
        trainer(tmp_path, hybrid(1), hybrid(2), Attentions()).train()
    trainer(tmp_path, hybrid(1), hybrid(2), Attentions(mapping={2: 4})).train()


def test_the_blocks_that_have_it_are_found_by_their_numbers():
    model = hybrid()
    twin = hybrid()
    twin.set_attn_implementation("eager")
    made = {"input_ids": batch(lengths=(12,) * 4)["input_ids"]}
    prepare_attention(model, "teacher")
    with torch.no_grad():
        got = capture(model, made, Needs(hidden_states=frozenset({1, 2, 3}), attentions=frozenset({2, 4})))
        expected = twin(**made, output_attentions=True, output_hidden_states=True)
    for number in (1, 2, 3):
        torch.testing.assert_close(got.hidden_states[number], expected.hidden_states[number])
    for place, block in enumerate((2, 4)):  # transformers gives the maps there are, in order
        maps = torch.stack([attention_probabilities(got.attentions[block], row, slice(None)) for row in range(4)])
        torch.testing.assert_close(maps, [each for each in expected.attentions if each is not None][place])


def test_a_model_that_leaves_its_blocks_out_is_told_of():
    model, made = opt(1.0), batch("next_token")
    capture(model.eval(), made, Needs(logits=True, hidden_states=frozenset({2})))
    with pytest.raises(ModelError, match=r"(?s)hidden state of block 2.*did not run"):
        capture(model.train(), made, Needs(logits=True, hidden_states=frozenset({2})))


@pytest.mark.parametrize("objective", [HiddenStates, Attentions])
def test_blocks_that_are_skipped_at_random_are_refused(tmp_path, objective):
    with pytest.raises(ModelError, match=r"(?s)LayerDrop 0.3.*student.model.decoder.layerdrop = 0"):
        trainer(tmp_path, opt(0.3), opt(0.0), objective())
    student = opt(0.3)
    student.model.decoder.layerdrop = 0
    trainer(tmp_path, student, opt(0.3), objective()).train()  # as a teacher it skips none


def test_so_they_are_under_another_name(tmp_path):
    with pytest.raises(ModelError, match=r"(?s)LayerDrop 0.2.*student.model.decoder.layerdrop = 0"):
        trainer(tmp_path, bart(0.2), bart(0.0), HiddenStates())


@pytest.mark.parametrize("objective", [LogitsKL, Embeddings])
def test_what_has_no_number_between_may_skip_them(tmp_path, objective):
    trainer(tmp_path, opt(0.3), opt(0.0), objective()).train()


def test_a_causal_mask_is_made_where_the_scores_are():
    query = torch.empty(1, 4, 5, 8, device="meta")
    assert Scores(SelfAttention(query, query, causal=True), 0, slice(None)).hidden.device == query.device


def test_what_a_model_pads_rows_with_inside_is_left_out():
    torch.manual_seed(0)
    config = LongformerConfig(**SMALL, intermediate_size=48, max_position_embeddings=64, attention_window=8)
    model = LongformerForSequenceClassification(config).eval()
    ids, mask = torch.randint(5, VOCAB, (3, 10)), torch.ones(3, 10, dtype=torch.long)
    mask[1, 6:] = 0
    whole = {"input_ids": torch.nn.functional.pad(ids, (0, 6)), "attention_mask": torch.nn.functional.pad(mask, (0, 6))}
    with torch.no_grad():
        got = capture(model, {"input_ids": ids, "attention_mask": mask}, Needs(hidden_states=frozenset({1, 2})))
        expected = model(**whole, output_hidden_states=True).hidden_states
    for block in (1, 2):
        torch.testing.assert_close(got.hidden_states[block], expected[block][:, :10])


def test_states_that_are_not_of_each_token_are_refused():
    model = XLNetForSequenceClassification(XLNetConfig(vocab_size=VOCAB, d_model=32, n_layer=2, n_head=4, d_inner=48))
    made = {"input_ids": torch.randint(5, VOCAB, (3, 10))}
    with pytest.raises(ModelError, match=r"(?s)block 1 is \(10, 3\).*batch's is \(3, 10\)"):
        capture(model, made, Needs(hidden_states=frozenset({1})))
    assert describe(XLNetLMHeadModel(model.config)).item is None  # it predicts the token at each place


def test_a_model_without_attention_learns_from_logits_and_states(tmp_path):
    student, teacher = (
        MambaForCausalLM(MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=layers, state_size=4))
        for layers in (2, 4)
    )
    trainer(tmp_path, student, teacher, LogitsKL()).train()
    trainer(tmp_path, student, teacher, HiddenStates()).train()
    with pytest.raises(ModelError, match=r"(?s)attentions compares self-attention.*The student has none"):
        trainer(tmp_path, student, teacher, Attentions())
