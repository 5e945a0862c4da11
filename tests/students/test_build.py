import copy

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, batch, tiny_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, ViTConfig, ViTModel

from distil_nlp.blocks import describe
from distil_nlp.errors import ModelError
from distil_nlp.objectives import HiddenStates
from distil_nlp.students import build_student


@pytest.mark.parametrize("family", FAMILIES)
def test_keeps_blocks_embeddings_and_head_and_loads_plainly(family, tmp_path):
    teacher = tiny_model(family)
    student = build_student(teacher, num_layers=2)
    made = {name: batch()[name] for name in ("input_ids", "attention_mask")}
    if family not in ("albert", "modernbert"):  # shared blocks; blocks that differ by position
        twin = copy.deepcopy(teacher)
        path = next(n for n, m in twin.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 4)
        blocks = twin.get_submodule(path)
        kept = torch.nn.ModuleList([blocks[1], blocks[3]])
        twin.set_submodule(path, kept)
        twin.config.num_hidden_layers = 2
        twin.config.use_cache = False  # its blocks still carry their old numbers
        torch.testing.assert_close(student(**made).logits, twin(**made).logits)
    student.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded) is type(teacher)
    torch.testing.assert_close(loaded(**made).logits, student(**made).logits)
    assert {p.data_ptr() for p in student.parameters()}.isdisjoint(p.data_ptr() for p in teacher.parameters())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_decoders_generate(family, tmp_path):
    student = build_student(tiny_model(family, "next_token"), layers=[1, -1])
    student.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(
        loaded.generate(ids, max_new_tokens=5, min_new_tokens=5, do_sample=False),
        student.generate(ids, max_new_tokens=5, min_new_tokens=5, do_sample=False),
    )


def test_per_block_attention_types_follow_the_kept_blocks():
    teacher = tiny_model("modernbert")
    types = teacher.config.layer_types
    assert build_student(teacher, layers=[2, 4]).config.layer_types == [types[1], types[3]]
    assert teacher.config.layer_types == types


def test_is_float32_and_leaves_the_random_state_alone():
    teacher = tiny_model().to(torch.bfloat16)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    student = build_student(teacher, num_layers=1)
    assert torch.rand(1) == expected
    assert {p.dtype for p in student.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"num_layers": 2, "layers": [1]},
        {"num_layers": 5},
        {"num_layers": 0},
        {"layers": [5]},
        {"layers": [0]},
    ],
)
def test_impossible_students_are_refused(request_):
    with pytest.raises(ModelError):
        build_student(tiny_model(), **request_)


@pytest.mark.parametrize(
    ("request_", "advice"),
    [
        ({"num_layers": 2.0}, "whole number"),
        ({"num_layers": True}, "whole number"),
        ({"num_layers": "2"}, "whole number"),
        ({"hidden_size": 16.0}, "whole number"),
        ({"intermediate_size": torch.tensor(20)}, "whole number"),
        ({"layers": 2}, r"num_layers=2\?"),
        ({"layers": ["1", "3"]}, r"layers=\[1, 3\]"),
        ({"layers": [1.0, 3.0]}, r"layers=\[1, 3\]"),
        ({"layers": [True, False]}, r"layers=\[1, 3\]"),
        ({"layers": torch.tensor([1, 3])}, r"layers=\[1, 3\]"),
        ({"num_layers": 2, "decoder_layers": "first"}, r"decoder_layers=\[1, 3\]"),
        ({"num_layers": 2, "decoder_layers": 1.0}, r"decoder_layers=\[1, 3\]"),
    ],
    ids=str,
)
def test_other_types_are_refused(request_, advice):
    with pytest.raises(ModelError, match=advice):
        build_student(tiny_model(), **request_)


def test_numpys_whole_numbers_are_numbers(tmp_path):
    student = build_student(tiny_model(), layers=list(np.array([1, 4])), intermediate_size=np.int64(20))
    assert (student.config.num_hidden_layers, student.config.intermediate_size) == (2, 20)
    student.save_pretrained(tmp_path)
    assert build_student(tiny_model(), num_layers=np.int32(2)).config.num_hidden_layers == 2


@pytest.mark.parametrize(
    ("asked", "kept"), [({"layers": [1, 2, 6]}, [1, 2, 6]), ({"intermediate_size": 20}, [1, 2, 3, 4, 5, 6])], ids=str
)
def test_which_blocks_were_kept_is_known_when_it_is_loaded(asked, kept, tmp_path):
    teacher = tiny_model(num_hidden_layers=6)
    build_student(teacher, **asked).save_pretrained(tmp_path)
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert (student.config.kept_layers, student.config.kept_layers_of) == (kept, 6)
    assert kept_pairs(student, teacher) == list(enumerate(kept, start=1))


def kept_pairs(student, teacher):
    objective = HiddenStates(mapping="kept")
    objective.bind(describe(student), describe(teacher))
    return objective.pairs


def test_of_a_students_student_the_first_teachers_blocks_are_known():
    first = tiny_model(num_hidden_layers=6)
    between = build_student(first, layers=[2, 4, 5])
    narrow, shallow = build_student(between, intermediate_size=20), build_student(between, layers=[1, 3])
    assert kept_pairs(narrow, first) == [(1, 2), (2, 4), (3, 5)]
    assert kept_pairs(narrow, between) == [(1, 1), (2, 2), (3, 3)]
    assert kept_pairs(shallow, first) == [(1, 2), (2, 5)]
    assert kept_pairs(shallow, between) == [(1, 1), (2, 3)]
    for other in (
        tiny_model(num_hidden_layers=7),
        tiny_model(num_hidden_layers=3),
        build_student(first, layers=[2, 4]),
    ):
        with pytest.raises(ModelError, match=r"(?s)\[2, 5\] of a model's 6 blocks.*Give the teacher that"):
            kept_pairs(shallow, other)


def test_of_models_without_a_vocabulary_layers_are_noted_too():
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4
    )
    assert build_student(ViTModel(config), num_layers=2).config.kept_layers == [2, 4]


def test_of_a_teacher_whose_blocks_are_others_by_now_its_own_count():
    teacher = build_student(tiny_model(num_hidden_layers=6), layers=[2, 4, 5, 6])
    teacher.config.kept_layers = [2, 4, 6]
    assert kept_pairs(build_student(teacher, layers=[1, 4]), teacher) == [(1, 1), (2, 4)]
