import copy

import naive_relations as naive
import pytest
import torch
from tiny_models import batch, tiny_model

from distil_nlp.blocks import describe
from distil_nlp.capture import capture
from distil_nlp.errors import ModelError, RecipeError
from distil_nlp.objectives import MarginMSE


def heads(num_labels, **config):
    return [tiny_model(seed=seed, num_labels=num_labels, **config) for seed in (1, 2)]


def margins(models, made, objective=None):
    objective = objective or MarginMSE()
    objective.bind(*(describe(model) for model in models))
    student, teacher = (capture(model, made, objective.student_needs) for model in models)
    loss = objective(student, teacher, made)
    return loss, *(signal.logits.detach().float().numpy() for signal in (student, teacher))


@pytest.mark.parametrize("num_labels", [1, 2])
@pytest.mark.parametrize("group", [None, (0, 0, 7, 0), (1, 2, 1, 2), (1, 2, 3, 4)])
def test_margins_equal_plain_loops_over_partners(num_labels, group):
    made = batch()
    if group:
        made["group"] = torch.tensor(group)
    loss, ours, theirs = margins(heads(num_labels), made)
    scores = [z[:, 0] if num_labels == 1 else z[:, 1] - z[:, 0] for z in (ours, theirs)]
    assert loss.item() == pytest.approx(naive.margin_mse(*scores, group).mean(), rel=1e-5)
    assert (loss == 0) == (group == (1, 2, 3, 4))


def test_margins_do_not_see_a_constant_on_all_scores():
    models = heads(1)
    loss, *_ = margins(models, batch())
    with torch.no_grad():
        models[0].classifier.bias += 5
    torch.testing.assert_close(margins(models, batch())[0], loss, rtol=1e-4, atol=1e-6)


def test_margins_are_zero_and_flat_where_the_student_is_the_teacher():
    student = tiny_model(num_labels=2)
    loss, *_ = margins([student, copy.deepcopy(student)], batch())
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert max(p.grad.abs().max() for p in student.parameters() if p.grad is not None) < 1e-6


def test_the_margins_of_bfloat16_heads_are_finite_and_float32():
    loss, *_ = margins([model.bfloat16() for model in heads(2)], batch())
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


def test_one_example_has_no_margin():
    made = {key: value[:1] for key, value in batch().items()}
    loss, *_ = margins(heads(1), made)
    loss.backward()
    assert loss == 0


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (lambda: heads(3), "3 outputs"),
        (lambda: heads(3, problem_type="regression"), "3 outputs"),
        (lambda: heads(2, problem_type="multi_label_classification"), "multi_label_classification"),
        (lambda: [tiny_model(item="token", seed=seed) for seed in (1, 2)], "no meaning"),
    ],
)
def test_heads_without_one_score_are_refused(models, message):
    with pytest.raises(ModelError, match=message):
        MarginMSE().bind(*(describe(model) for model in models()))


def test_a_negative_weight_is_refused():
    with pytest.raises(RecipeError, match="weight is -1"):
        MarginMSE(weight=-1)
