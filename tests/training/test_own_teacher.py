"""A teacher does not change while it teaches: neither as the student itself, nor by dropout."""

import copy

import pytest
import torch
from tiny_models import batch, tiny_model
from transformers import TrainingArguments

from distil_nlp.errors import ModelError
from distil_nlp.objectives import LogitsKL, TaskLoss
from distil_nlp.signals import Needs
from distil_nlp.students import add_lora
from distil_nlp.teachers import EnsembleTeacher, ModelTeacher
from distil_nlp.training import DistillationTrainer


def trainer(student, teacher, folder):
    arguments = TrainingArguments(output_dir=str(folder), use_cpu=True, report_to=[], max_steps=1)
    return DistillationTrainer(student, teacher=teacher, objectives=[TaskLoss(), LogitsKL()], args=arguments)


@pytest.mark.parametrize(
    "given", [lambda model: model, lambda model: [tiny_model(seed=2), model], lambda model: (model,)]
)
def test_the_student_is_refused_and_stays_as_it_was(given, tmp_path):
    student = tiny_model(seed=1).train()
    with pytest.raises(ModelError, match=r"(?s)They are one model.*deepcopy"):
        trainer(student, given(student), tmp_path)
    assert student.training
    assert all(parameter.requires_grad for parameter in student.parameters())


@pytest.mark.parametrize("wrap", [ModelTeacher, lambda model: EnsembleTeacher([tiny_model(seed=2), model])])
def test_so_it_is_within_a_teacher(wrap, tmp_path):
    student = tiny_model(seed=1)
    with pytest.raises(ModelError, match="one model"):
        trainer(student, wrap(student), tmp_path)


def test_so_is_the_base_of_its_adapters(tmp_path):
    pytest.importorskip("peft")
    base = tiny_model(seed=1)
    before = copy.deepcopy(base)
    student = add_lora(base, rank=2)
    with pytest.raises(ModelError, match="one model"):
        trainer(student, base, tmp_path)
    trainer(student, before, tmp_path)


def test_a_copy_and_shared_embeddings_are_fine(tmp_path):
    student = tiny_model(seed=1)
    trainer(student, copy.deepcopy(student), tmp_path)
    teacher = tiny_model(seed=2)
    student.bert.embeddings = teacher.bert.embeddings
    trainer(student, teacher, tmp_path)


def test_a_teacher_has_no_dropout_whatever_mode_it_was_put_into():
    model = tiny_model(hidden_dropout_prob=0.5)
    teacher, needs, made = ModelTeacher(model), Needs(logits=True), batch()
    teacher.prepare(needs, torch.device("cpu"))
    expected = teacher(made, needs).logits
    model.train()
    assert torch.equal(teacher(made, needs).logits, expected)
    assert not expected.requires_grad


def test_what_a_teacher_shares_with_a_student_has_dropout_for_the_student_alone(tmp_path):
    student, model = tiny_model(seed=1, hidden_dropout_prob=0.5), tiny_model(seed=2, hidden_dropout_prob=0.5)
    student.bert.embeddings = model.bert.embeddings
    made, needs = batch(), Needs(logits=True)
    teacher = trainer(student, model, tmp_path).teacher
    expected = teacher(made, needs).logits
    student.train()
    assert torch.equal(teacher(made, needs).logits, expected)
    assert model.bert.embeddings.dropout.training
    assert not torch.equal(student(**made).logits, student(**made).logits)
