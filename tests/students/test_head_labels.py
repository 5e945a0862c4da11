"""A model with other labels against one whose rows are put in place by hand."""

import pytest
import torch
from tiny_models import FAMILIES, batch, tiny_model

from distil_nlp.students import build_student
from distil_nlp.students.labels import with_labels


def named(family, *labels, item="example"):
    id2label = dict(enumerate(labels))
    label2id = {label: number for number, label in id2label.items()}
    return tiny_model(family, item, num_labels=len(labels), id2label=id2label, label2id=label2id, initializer_range=0.2)


def logits(model, item="example"):
    made = batch(item)
    with torch.no_grad():
        return model(input_ids=made["input_ids"], attention_mask=made["attention_mask"]).logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("item", ["example", "token"])
def test_known_labels_move_and_others_are_zero(family, item):
    model = named(family, "Sad", "glad", item=item)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = with_labels(model, ["mad", "glad", "sad"])
    got, was = logits(made, item), logits(model, item)
    torch.testing.assert_close(got, torch.stack([torch.zeros_like(was[..., 0]), was[..., 1], was[..., 0]], -1))
    assert made.config.id2label == {0: "mad", 1: "glad", 2: "sad"}
    assert made.config.label2id == {"mad": 0, "glad": 1, "sad": 2}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.config.num_labels == 2
    student = build_student(made, num_layers=2)
    assert student.config.num_labels == 3


def test_as_many_labels_as_hidden_channels():
    """What else is as long as the list of labels stays as it is."""
    names = [f"label {number}" for number in range(32)]
    model = named("roberta", *names)
    turned = with_labels(model, names[::-1])
    torch.testing.assert_close(logits(turned), logits(model).flip(-1))


def test_the_same_labels_are_the_same_model():
    model = named("bert", "Sad", "glad")
    assert with_labels(model, ["sad", "GLAD"]) is model
