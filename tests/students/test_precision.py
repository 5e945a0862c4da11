"""Weights and buffers of trimmed and of narrower models have the precision that they had."""

import tempfile

import pytest
import torch
from tiny_models import CONFIGS, tiny_model
from tiny_seq2seq import CONFIGS as SEQ2SEQ
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from distil_nlp.students import build_student
from distil_nlp.students.embeddings import trimmed_model

KEPT = [*range(40), 50, 60]
CLASSES = {"llama": AutoModelForCausalLM, "modernbert": AutoModelForMaskedLM, "t5": AutoModelForSeq2SeqLM}


def loaded(family, dtype, **config):
    """A model in 16 bits as ``from_pretrained`` makes it: not all of it is."""
    made = CLASSES[family].from_config((SEQ2SEQ if family == "t5" else CONFIGS)[family](**config))
    for parameter in made.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        return CLASSES[family].from_pretrained(folder, dtype=dtype)


def dtypes(model):
    return {name: each.dtype for part in (model.named_parameters, model.named_buffers) for name, each in part()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", CLASSES)
def test_a_trimmed_model_in_16_bits_gives_the_same(family, dtype):
    torch.manual_seed(0)
    sizes = {} if family == "t5" else {"max_position_embeddings": 256}
    old = loaded(family, dtype, vocab_size=64, **sizes)
    assert torch.float32 in dtypes(old).values() or (family, dtype) == ("t5", torch.bfloat16)
    new = trimmed_model(old, KEPT)
    assert dtypes(new) == dtypes(old)
    places = torch.arange(200) % 30 + 5
    with torch.no_grad():
        decoder = {"decoder_input_ids": places[:9].unsqueeze(0)} if family == "t5" else {}
        before, after = (model(input_ids=places.unsqueeze(0), **decoder).logits for model in (old, new))
    assert torch.equal(after, before[..., KEPT])


def test_a_model_that_was_cast_as_a_whole_stays_so():
    old = tiny_model("llama", "next_token").to(torch.bfloat16)
    new = trimmed_model(old, KEPT)
    assert set(dtypes(new).values()) == {torch.bfloat16}
    assert torch.equal(new.model.rotary_emb.inv_freq, old.model.rotary_emb.inv_freq)
    assert new.get_input_embeddings().weight.requires_grad


def test_a_student_of_a_teacher_in_16_bits_turns_by_the_exact_frequencies():
    teacher = loaded("llama", torch.bfloat16, vocab_size=64)
    student = build_student(teacher, num_layers=2, hidden_size=16)
    assert set(dtypes(student).values()) == {torch.float32}
    assert torch.equal(student.model.rotary_emb.inv_freq, teacher.model.rotary_emb.inv_freq)
