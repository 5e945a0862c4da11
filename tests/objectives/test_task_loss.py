import pytest
import torch
import torch.nn.functional as F
from tiny_objectives import ITEMS, make, models, run

from distil_nlp.blocks import describe
from distil_nlp.objectives import LogitsKL, TaskLoss


@pytest.mark.parametrize("item", ITEMS)
def test_is_the_models_own(item):
    student, teacher = models(item)
    made = make(item)
    torch.testing.assert_close(run(TaskLoss(), student, teacher, made), student(**made).loss)


def test_of_a_batch_without_labelled_tokens_is_zero():
    student, teacher = models("token")
    made = make("token")
    made["labels"] = torch.full_like(made["labels"], -100)
    loss = run(TaskLoss(), student, teacher, made)
    loss.backward()
    assert loss == 0
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_examples_without_a_label_are_left_to_the_teacher(label_smoothing):
    student, teacher = models("example")
    made = make("example")
    made["labels"][1:3] = -100
    loss = run(TaskLoss(label_smoothing=label_smoothing), student, teacher, made)
    logits = student(made["input_ids"], made["attention_mask"]).logits[[0, 3]]
    twin = F.cross_entropy(logits, made["labels"][[0, 3]], label_smoothing=label_smoothing)
    torch.testing.assert_close(loss, twin)
    objective = LogitsKL()
    objective.bind(describe(student), describe(teacher))
    assert objective.count(made) == 4
