"""Batches that few people have, but some do."""

import pytest
import torch
from tiny_objectives import make, models, run, supported

from distil_nlp.errors import ModelError
from distil_nlp.objectives import OBJECTIVES, LogitsKL


@pytest.mark.parametrize("lengths", [(0, 5, 0, 3), (0, 0, 0, 0)])
@pytest.mark.parametrize("name", [name for name in OBJECTIVES if supported(name, "span")])
def test_rows_of_padding_alone_teach_nothing_about_spans(name, lengths):
    student, teacher = models("span")
    loss = run(OBJECTIVES[name](), student, teacher, make("span", lengths=lengths))
    loss.backward()
    gradients = [each.grad for each in student.parameters() if each.grad is not None]
    assert all(torch.isfinite(each).all() for each in [loss, *gradients])
    if not any(lengths) and name != "task_loss":
        assert loss == 0


def test_numbers_as_labels_of_classes_are_refused():
    """transformers would take the task for one of several labels an example, in the model's own loss."""
    student, teacher = models()
    made = {**make(), "labels": torch.tensor([[1.0, 0.0, 1.0]]).repeat(4, 1)}
    with pytest.raises(ModelError, match=r"(?s)numbers, not classes.*multi_label_classification"):
        run(LogitsKL(), student, teacher, made)
    student, teacher = models("multi_label_classification")
    assert run(LogitsKL(), student, teacher, made) > 0
