"""What holds for every objective, with every kind of prediction that it supports."""

import copy
import dataclasses
import re

import pytest
import torch
import torch.nn.functional as F
from tiny_objectives import KINDS, make, models, pairs, run, shapes, signals, supported

from distil_nlp.blocks import describe
from distil_nlp.errors import ModelError, RecipeError
from distil_nlp.objectives import OBJECTIVES
from distil_nlp.objectives.on_logits import LogitsObjective

WITH_TEACHER = [name for name in OBJECTIVES if OBJECTIVES[name].uses_teacher]
ON_LOGITS = [name for name in OBJECTIVES if issubclass(OBJECTIVES[name], LogitsObjective)]
# Not zero where the student is the teacher, and why.
EXCEPT = {
    "contrastive": "the examples of a batch are similar to each other, so none is told apart with certainty",
}
# Padding is in the loss, and why.
PADDED = {("task_loss", "span"): "transformers' own span loss has padding in its softmax"}


def kind_of(name):
    """A kind of prediction that an objective supports."""
    return next(kind for kind in KINDS if supported(name, kind))


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_something_is_supported(name):
    assert kind_of(name)


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in ON_LOGITS for kind in KINDS if kind not in OBJECTIVES[name].kinds]
)
def test_a_kind_that_is_not_declared_is_refused_with_what_to_use(name, kind):
    with pytest.raises(ModelError, match=f"'{kind}'") as error:
        OBJECTIVES[name]().bind(*shapes(kind))
    instead = re.search(r"Use (\w+) instead", error.value.fix)
    assert instead
    assert supported(instead[1], kind)


@pytest.mark.parametrize(("name", "kind"), [pair for pair in pairs(*WITH_TEACHER) if pair[0] not in EXCEPT])
def test_is_zero_and_flat_where_the_student_is_the_teacher(name, kind):
    student, _ = models(kind)
    loss = run(OBJECTIVES[name](), student, copy.deepcopy(student), make(kind))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert max(grad.abs().max() for grad in gradients(student).values()) < 1e-5


@pytest.mark.parametrize("side", ["right", "left"])  # on the left GPT-2: heads of BERT read the first position
@pytest.mark.parametrize(("name", "kind"), [pair for pair in pairs() if pair not in PADDED])
def test_padding_and_ignored_positions_do_not_matter(name, kind, side):
    student, teacher = models(kind, family="gpt2" if side == "left" else None, dtype=torch.float64)
    made = make(kind)
    made["position_ids"] = torch.arange(12).repeat(4, 1)  # so that padding on the left moves no token
    objective, extra = OBJECTIVES[name](), 6
    widths = (0, extra) if side == "right" else (extra, 0)
    longer = {
        key: F.pad(value, widths, value=-100 if key == "labels" else 0) if value.shape[1:] == (12,) else value
        for key, value in made.items()
    }
    for key in ("start_positions", "end_positions"):
        if key in longer and side == "left":
            longer[key] = longer[key] + extra
    results = []
    for each in (made, longer):
        student.zero_grad()
        objective.zero_grad()
        loss = run(objective, student, teacher, each)
        loss.backward()
        results.append((loss.detach(), {**gradients(student), **gradients(objective)}))
    torch.testing.assert_close(results[1][0], results[0][0], atol=1e-12, rtol=1e-9)
    for key, grad in results[0][1].items():
        torch.testing.assert_close(results[1][1][key], grad, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize(("name", "kind"), pairs())
def test_the_order_of_examples_does_not_matter(name, kind):
    student, teacher = models(kind, dtype=torch.float64)
    made, objective = make(kind), OBJECTIVES[name]()
    turned = {key: value.flip(0) for key, value in made.items()}
    there, back = (run(objective, student, teacher, each) for each in (made, turned))
    torch.testing.assert_close(back, there, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize(("name", "kind"), pairs())
def test_micro_batches_with_the_common_count_sum_to_the_whole(name, kind):
    """Each on its own, weighted by its count, for an objective whose examples are compared with one another."""
    student, teacher = models(kind, dtype=torch.float64)
    made, objective = make(kind), OBJECTIVES[name]()
    whole = run(objective, student, teacher, made)
    count = objective.count(made)
    parts = [{key: value[rows] for key, value in made.items()} for rows in (slice(0, 1), slice(1, 4))]
    counts = [objective.count(part) for part in parts]
    assert sum(counts) == count
    if objective.relational:
        alone = [run(objective, student, teacher, part) for part in parts]
        whole = sum(term * number / count for term, number in zip(alone, counts, strict=True))
    together = sum(run(objective, student, teacher, part, count) for part in parts)
    torch.testing.assert_close(together, whole, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize(("name", "kind"), pairs())
def test_the_value_of_one_example_alone_can_be_differentiated(name, kind):
    student, teacher = models(kind)
    made = make(kind, rows=1, lengths=(7,))
    run(OBJECTIVES[name](), student, teacher, made).backward()
    assert all(torch.isfinite(grad).all() for grad in gradients(student).values())


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if supported(name, "token")])
def test_a_batch_without_labelled_tokens_is_finite(name):
    student, teacher = models("token")
    made, objective = make("token"), OBJECTIVES[name]()
    made["labels"] = torch.full_like(made["labels"], -100)
    loss = run(objective, student, teacher, made)
    loss.backward()
    assert objective.count(made) or loss == 0
    assert all(torch.isfinite(grad).all() for grad in [loss, *gradients(student).values()])


@pytest.mark.parametrize("name", WITH_TEACHER)
def test_gradient_reaches_student_and_projection_only(name):
    kind, objective = kind_of(name), OBJECTIVES[name]()
    student, teacher = models(kind, width=16)
    objective.bind(describe(student), describe(teacher))
    ours, theirs = signals(objective, student, teacher, make(kind))
    objective(ours, theirs, make(kind)).backward()
    assert any(grad.abs().sum() > 0 for grad in gradients(student).values())
    assert not gradients(teacher)
    assert all(p.grad is not None for p in objective.parameters())


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_needs_are_exactly_what_is_read(name):
    """Signals outside the declared needs are absent, and every declared one is read."""
    kind, objective = kind_of(name), OBJECTIVES[name]()
    student, teacher = models(kind)
    made = make(kind)
    ours, theirs = signals(objective, student, teacher, made)
    objective(ours, theirs, made)  # reads nothing that is absent, or this would fail
    for side, needs in enumerate((objective.student_needs, objective.teacher_needs)):
        for field in dataclasses.fields(needs):
            wanted = getattr(needs, field.name)
            for number in wanted if isinstance(wanted, frozenset) else ():
                given = [copy.copy(each) for each in (ours, theirs)]
                left = {key: value for key, value in getattr(given[side], field.name).items() if key != number}
                setattr(given[side], field.name, left)
                with pytest.raises(KeyError):
                    objective(*given, made)
        if needs.logits:
            given = [copy.copy(each) for each in (ours, theirs)]
            given[side].logits = None
            with pytest.raises(ModelError, match="logits"):
                objective(*given, made)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_weight_is_a_factor(name):
    student, teacher = models(kind_of(name))
    objective, losses = OBJECTIVES[name](), []
    for objective.weight in (1.0, 0.5):
        losses.append(run(objective, student, teacher, make(kind_of(name))))
    assert losses[0] != 0
    torch.testing.assert_close(losses[1], losses[0] / 2)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_a_negative_weight_is_refused(name):
    with pytest.raises(RecipeError, match=rf"{name}\.weight is -1"):
        OBJECTIVES[name](weight=-1)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_is_named_in_errors_and_logs_as_in_recipes(name):
    assert OBJECTIVES[name].name == name
    assert OBJECTIVES[name].__module__ == f"distil_nlp.objectives.{name}"


@pytest.mark.parametrize("name", WITH_TEACHER)
def test_bfloat16_models_give_finite_float32_losses(name):
    student, teacher = models(kind_of(name), dtype=torch.bfloat16)
    loss = run(OBJECTIVES[name](), student, teacher, make(kind_of(name)))
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(torch.isfinite(grad).all() for grad in [loss, *gradients(student).values()])
