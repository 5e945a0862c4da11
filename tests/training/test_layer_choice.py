"""Layers chosen by similarity: a student made of some of the teacher's layers finds them again."""

import pytest
import torch
from test_trainer import collate, make_trainer, rows
from tiny_models import batch, tiny_model

from distil_nlp.errors import ModelError
from distil_nlp.objectives import HiddenStates
from distil_nlp.students import build_student
from distil_nlp.training import choose_layers
from distil_nlp.training.layer_choice import TOKENS


def teacher(family="bert"):
    return tiny_model(family, seed=2, num_hidden_layers=6, initializer_range=0.2)


@pytest.mark.parametrize("kept", [[1, 2, 3], [1, 2, 5], [1, 2, 3, 4, 5, 6]])
def test_the_first_layers_of_the_teacher_are_found(kept):
    """Up to the first gap the student's hidden states are the teacher's own."""
    model = teacher()
    student = build_student(model, layers=kept)
    pairs = choose_layers(student, model, [batch()]).resolve(len(kept), 6)
    together = [block for block, layer in enumerate(kept, start=1) if block == layer]
    assert pairs[: len(together)] == [(block, block) for block in together]
    assert [t for _, t in pairs] == sorted(t for _, t in pairs)


def test_another_width_padding_and_the_modes_of_both_models():
    student, guide = tiny_model(seed=1, hidden_size=16, num_hidden_layers=2).train(), teacher()
    made = batch()
    mapping = choose_layers(student, guide, [made])
    assert student.training
    longer = {key: value if value.dim() == 1 else torch.nn.functional.pad(value, (0, 5)) for key, value in made.items()}
    assert choose_layers(student, guide, [longer]).spec == mapping.spec
    assert choose_layers(student, guide, [made]).spec == mapping.spec  # dropout has no part in it
    assert len(mapping.resolve(2, 6)) == 2


def test_no_more_is_read_than_needed():
    read = []

    def batches():
        while True:
            read.append(1)
            yield batch(lengths=(12, 12, 12, 12))

    choose_layers(tiny_model(num_hidden_layers=2), teacher(), batches())
    assert len(read) == -(-TOKENS // 48)


def test_without_a_batch_there_is_nothing_to_compare():
    with pytest.raises(ModelError, match="no batch"):
        choose_layers(tiny_model(num_hidden_layers=2), teacher(), [])


def test_a_trainer_takes_the_choice_but_does_not_make_it(tmp_path):
    student, guide = tiny_model(seed=1, num_hidden_layers=2), teacher()
    with pytest.raises(ModelError, match="choose_layers"):
        make_trainer(tmp_path, student=student, terms=[HiddenStates(mapping="cka")])
    mapping = choose_layers(student, guide, [collate(rows())])
    trainer = make_trainer(tmp_path, student=student, teacher=guide, terms=[HiddenStates(mapping=mapping)])
    assert trainer.objectives[0].layer_map == mapping.spec
    trainer.train()
