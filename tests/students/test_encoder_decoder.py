import pytest
import torch
from tiny_models import tiny_model
from tiny_seq2seq import tiny_seq2seq
from transformers import AutoModelForSeq2SeqLM, T5EncoderModel

from distil_nlp.errors import ModelError
from distil_nlp.students import build_student

STACKS = {
    "t5": ("encoder.block", "decoder.block"),
    "bart": ("model.encoder.layers", "model.decoder.layers"),
    "m2m_100": ("model.encoder.layers", "model.decoder.layers"),
}
INPUTS = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "decoder_input_ids": torch.tensor([[2, 9, 4]])}


def four_blocks(family="t5"):
    """A teacher with four blocks in each stack."""
    return tiny_seq2seq(family, **({"num_layers": 4} if family == "t5" else {"encoder_layers": 4, "decoder_layers": 4}))


def depths(model):
    config = model.config
    if model.config.model_type == "t5":
        return config.num_layers, config.num_decoder_layers
    return config.encoder_layers, config.decoder_layers


@pytest.mark.parametrize("family", STACKS)
@pytest.mark.parametrize(
    ("request_", "encoder", "decoder"),
    [
        ({"num_layers": 2}, [1, 3], [1, 3]),
        ({"layers": [1, -1]}, [0, 3], [0, 3]),
        ({"num_layers": 2, "decoder_layers": 1}, [1, 3], [3]),
        ({"layers": [1, 2, 3], "decoder_layers": [2, -1]}, [0, 1, 2], [1, 3]),
        ({"decoder_layers": 2}, [0, 1, 2, 3], [1, 3]),
    ],
)
def test_blocks_of_both_stacks_are_copied(family, request_, encoder, decoder, tmp_path):
    teacher = four_blocks(family)
    student = build_student(teacher, **request_)
    assert depths(student) == (len(encoder), len(decoder))
    assert depths(teacher) == (4, 4)
    for path, kept in zip(STACKS[family], (encoder, decoder), strict=True):
        for new, old in enumerate(kept):
            block, twin = (
                model.get_submodule(f"{path}.{at}").state_dict() for model, at in ((student, new), (teacher, old))
            )
            shared = set(block) & set(twin)
            assert all(torch.equal(block[name], twin[name]) for name in shared)
            assert {name.rpartition("attention_bias")[2] for name in set(block) ^ set(twin)} <= {".weight"}
    outside = {name for name in student.state_dict() if not name.startswith(STACKS[family])}
    assert outside == {name for name in teacher.state_dict() if not name.startswith(STACKS[family])}
    assert all(torch.equal(student.state_dict()[name], teacher.state_dict()[name]) for name in outside)
    student.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**INPUTS).logits, student(**INPUTS).logits)
    ids = [
        model.generate(INPUTS["input_ids"], max_new_tokens=5, min_new_tokens=5, do_sample=False)
        for model in (student, loaded)
    ]
    assert torch.equal(*ids)
    assert ids[0].shape == (1, 6)


@pytest.mark.parametrize("request_", [{"num_layers": 1}, {"layers": [2, 3]}, {"layers": [1, 3]}])
def test_the_first_block_of_t5_keeps_the_relative_positions(request_):
    teacher = four_blocks("t5")
    student = build_student(teacher, **request_)
    for stack in STACKS["t5"]:
        name = f"{stack}.0.layer.0.SelfAttention.relative_attention_bias.weight"
        assert torch.equal(student.state_dict()[name], teacher.state_dict()[name])


def test_all_blocks_kept_is_the_teacher():
    for family in STACKS:
        teacher = four_blocks(family)
        student = build_student(teacher, layers=[1, 2, 3, 4])
        torch.testing.assert_close(student(**INPUTS).logits, teacher(**INPUTS).logits, rtol=0, atol=0)


def test_an_encoder_of_t5_alone_is_one_stack():
    teacher = T5EncoderModel(four_blocks("t5").config).eval()
    student = build_student(teacher, num_layers=2)
    assert len(student.encoder.block) == 2
    name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    assert torch.equal(student.state_dict()[name], teacher.state_dict()[name])


def test_decoder_layers_are_for_two_stacks():
    with pytest.raises(ModelError, match=r"(?s)one stack.*num_layers or layers"):
        build_student(tiny_model(), num_layers=2, decoder_layers=1)
    for wrong in ({"decoder_layers": 5}, {"decoder_layers": [0]}, {"num_layers": 5}):
        with pytest.raises(ModelError):
            build_student(four_blocks(), **wrong)


@pytest.mark.parametrize(("family", "limited"), [("t5", True), ("bart", False)])
def test_a_decoder_without_a_place_in_the_cache_is_warned_of(family, limited, caplog):
    request = {"num_layers": 1, "decoder_layers": 3}
    student = build_student(four_blocks(family), **request)
    ids, how = INPUTS["input_ids"], {"max_new_tokens": 3, "do_sample": False}
    assert ("3 blocks, more than its encoder" in caplog.text) == limited
    student.generate(ids, use_cache=False, **how)
    if limited:
        with pytest.raises(IndexError):
            student.generate(ids, **how)
    else:
        student.generate(ids, **how)
    caplog.clear()
    build_student(four_blocks(family), num_layers=3, decoder_layers=3)
    assert not caplog.text
