"""Hidden states and attention maps, against independent twins."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny_objectives import make, models, run

from distil_nlp.blocks import describe
from distil_nlp.errors import ModelError
from distil_nlp.objectives import Attentions, HiddenStates


def test_hidden_states_are_the_mean_over_valid_tokens_width_and_pairs():
    student, teacher = models("example")
    made = make()
    loss = run(HiddenStates(mapping={1: 2, 3: 4}), student, teacher, made)
    ours = student(made["input_ids"], made["attention_mask"], output_hidden_states=True).hidden_states
    theirs = teacher(made["input_ids"], made["attention_mask"], output_hidden_states=True).hidden_states
    total, entries = 0.0, 0
    for s, t in ((1, 2), (3, 4)):
        for row, length in enumerate((12, 7, 9, 3)):
            total += ((ours[s][row, :length] - theirs[t][row, :length]) ** 2).sum().item()
            entries += length * 32
    assert loss.item() == pytest.approx(total / entries, rel=1e-5)


def test_attentions_are_mse_loss_of_eager_maps_without_padding():
    student, teacher = models("example")
    made = make(lengths=(12, 12, 12, 12))
    loss = run(Attentions(mapping={2: 3}), student, teacher, made)
    maps = []
    for model, block in ((student, 2), (teacher, 3)):
        twin = copy.deepcopy(model)
        twin.set_attn_implementation("eager")
        maps.append(twin(made["input_ids"], made["attention_mask"], output_attentions=True).attentions[block - 1])
    torch.testing.assert_close(loss, F.mse_loss(*maps))


def test_a_projection_bridges_widths_and_none_refuses():
    student, teacher = models("example", width=16)
    objective = HiddenStates()
    run(objective, student, teacher, make())
    assert [tuple(layer.weight.shape) for layer in objective.projection.layers] == [(32, 16)] * 4
    with pytest.raises(ModelError, match="16 wide"):
        HiddenStates(projection="none").bind(describe(student), describe(teacher))


def test_equal_widths_need_no_projection():
    student, teacher = models("example")
    objective = HiddenStates()
    objective.bind(describe(student), describe(teacher))
    assert not list(objective.parameters())
