"""What holds for every objective, and each against an independent twin."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny_models import batch, tiny_model

from distil_nlp.blocks import describe
from distil_nlp.capture import capture, prepare_attention
from distil_nlp.errors import ModelError, RecipeError
from distil_nlp.objectives import OBJECTIVES, Attentions, HiddenStates, LogitsKL, TaskLoss

ITEMS = ("example", "token", "next_token", "span")
WITH_TEACHER = [name for name in OBJECTIVES if OBJECTIVES[name].uses_teacher]


def models(item, width=32):
    family = "gpt2" if item == "next_token" else "bert"
    student, teacher = tiny_model(family, item, seed=1), tiny_model(family, item, seed=2)
    if width != 32:
        student = tiny_model("bert", item, seed=1, hidden_size=width)
    for model in (student, teacher):
        prepare_attention(model, "student")
    return student, teacher


def run(objective, student, teacher, made, count=None):
    objective.bind(describe(student), describe(teacher))
    ours = capture(student, made, objective.student_needs)
    with torch.no_grad():
        theirs = capture(teacher, made, objective.teacher_needs)
    return objective(ours, theirs, made, count)


@pytest.mark.parametrize("name", WITH_TEACHER)
@pytest.mark.parametrize("item", ITEMS)
def test_is_zero_and_flat_where_the_student_is_the_teacher(name, item):
    student, _ = models(item)
    loss = run(OBJECTIVES[name](), student, copy.deepcopy(student), batch(item))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert max(p.grad.abs().max() for p in student.parameters() if p.grad is not None) < 1e-5


@pytest.mark.parametrize(
    ("name", "item"),
    [
        (name, item)
        for name in OBJECTIVES
        for item in ITEMS
        if (name, item) != ("task_loss", "span")  # transformers' own span loss has padding in its softmax
    ],
)
def test_padding_and_ignored_positions_do_not_matter(name, item):
    student, teacher = models(item)
    made = batch(item)
    longer = {
        key: value if value.dim() == 1 else F.pad(value, (0, 6), value=-100 if key == "labels" else 0)
        for key, value in made.items()
    }
    results = []
    for each in (made, longer):
        student.zero_grad()
        loss = run(OBJECTIVES[name](), student, teacher, each)
        loss.backward()
        results.append(
            (loss.detach(), {n: p.grad.clone() for n, p in student.named_parameters() if p.grad is not None})
        )
    torch.testing.assert_close(results[0][0], results[1][0])
    for key, grad in results[0][1].items():
        torch.testing.assert_close(results[1][1][key], grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", list(OBJECTIVES))
@pytest.mark.parametrize("item", ITEMS)
def test_the_order_of_examples_does_not_matter(name, item):
    student, teacher = models(item)
    made = batch(item)
    turned = {key: value.flip(0) for key, value in made.items()}
    torch.testing.assert_close(
        run(OBJECTIVES[name](), student, teacher, made), run(OBJECTIVES[name](), student, teacher, turned)
    )


@pytest.mark.parametrize("name", list(OBJECTIVES))
@pytest.mark.parametrize("item", ITEMS)
def test_micro_batches_with_the_common_count_sum_to_the_whole(name, item):
    student, teacher = models(item)
    made = batch(item)
    whole = run(OBJECTIVES[name](), student, teacher, made)
    objective = OBJECTIVES[name]()
    objective.bind(describe(student), describe(teacher))
    count = objective.count(made)
    parts = [{k: v[rows] for k, v in made.items()} for rows in (slice(0, 1), slice(1, 4))]
    assert sum(objective.count(part) for part in parts) == count
    torch.testing.assert_close(sum(run(OBJECTIVES[name](), student, teacher, p, count) for p in parts), whole)


@pytest.mark.parametrize("name", WITH_TEACHER)
def test_gradient_reaches_student_and_projection_only(name):
    student, teacher = models("example", width=16)
    objective = OBJECTIVES[name]()
    teacher.requires_grad_(True)
    run(objective, student, teacher, batch()).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in objective.parameters())


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_needs_are_exactly_what_is_read(name):
    """Signals outside the declared needs are absent, and every declared one is read."""
    student, teacher = models("example")
    objective = OBJECTIVES[name]()
    run(objective, student, teacher, batch())  # reads nothing that is absent, or this would fail
    made = batch()
    for side, needs in (("student", objective.student_needs), ("teacher", objective.teacher_needs)):
        for kind in ("hidden_states", "attentions"):
            for number in getattr(needs, kind):
                signals = {
                    "student": capture(student, made, objective.student_needs),
                    "teacher": capture(teacher, made, objective.teacher_needs),
                }
                del getattr(signals[side], kind)[number]
                with pytest.raises(KeyError):
                    objective(signals["student"], signals["teacher"], made)


def test_weight_is_a_factor():
    student, teacher = models("example")
    one, half = (run(LogitsKL(weight=w), student, teacher, batch()) for w in (1.0, 0.5))
    torch.testing.assert_close(half, one / 2)


@pytest.mark.parametrize("item", ITEMS)
def test_task_loss_is_the_models_own(item):
    student, teacher = models(item)
    made = batch(item)
    torch.testing.assert_close(run(TaskLoss(), student, teacher, made), student(**made).loss)


def test_task_loss_of_a_batch_without_labelled_tokens_is_zero():
    student, teacher = models("token")
    made = batch("token")
    made["labels"] = torch.full_like(made["labels"], -100)
    loss = run(TaskLoss(), student, teacher, made)
    loss.backward()
    assert loss == 0
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)


def test_logits_kl_is_torch_kl_div_over_labelled_next_tokens():
    student, teacher = models("next_token")
    made = batch("next_token")
    keep = made["labels"][:, 1:] != -100
    inputs = {key: made[key] for key in ("input_ids", "attention_mask")}
    s = student(**inputs).logits[:, :-1][keep] / 3
    t = teacher(**inputs).logits[:, :-1][keep] / 3
    twin = F.kl_div(F.log_softmax(s, -1), F.softmax(t, -1), reduction="batchmean") * 9
    torch.testing.assert_close(run(LogitsKL(temperature=3.0), student, teacher, made), twin)


def test_hidden_states_are_the_mean_over_valid_tokens_width_and_pairs():
    student, teacher = models("example")
    made = batch()
    objective = HiddenStates(mapping={1: 2, 3: 4})
    loss = run(objective, student, teacher, made)
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
    made = batch(lengths=(12, 12, 12, 12))
    loss = run(Attentions(mapping={2: 3}), student, teacher, made)
    maps = []
    for model, block in ((student, 2), (teacher, 3)):
        twin = copy.deepcopy(model)
        twin.set_attn_implementation("eager")
        maps.append(twin(made["input_ids"], made["attention_mask"], output_attentions=True).attentions[block - 1])
    torch.testing.assert_close(loss, F.mse_loss(*maps))


@pytest.mark.parametrize("name", WITH_TEACHER)
def test_bfloat16_models_give_finite_float32_losses(name):
    student, teacher = models("example")
    loss = run(OBJECTIVES[name](), student.bfloat16(), teacher.bfloat16(), batch())
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


def test_a_projection_bridges_widths_and_none_refuses():
    student, teacher = models("example", width=16)
    objective = HiddenStates()
    run(objective, student, teacher, batch())
    assert [tuple(layer.weight.shape) for layer in objective.projection.layers] == [(32, 16)] * 4
    with pytest.raises(ModelError, match="16 wide"):
        HiddenStates(projection="none").bind(describe(student), describe(teacher))


def test_equal_widths_need_no_projection():
    student, teacher = models("example")
    objective = HiddenStates()
    objective.bind(describe(student), describe(teacher))
    assert not list(objective.parameters())


def test_heads_that_cannot_be_compared_are_refused():
    student, teacher = describe(tiny_model(num_labels=3)), describe(tiny_model(num_labels=4))
    with pytest.raises(ModelError, match="3 labels, the teacher 4"):
        LogitsKL().bind(student, teacher)
    with pytest.raises(ModelError, match="per example, the teacher per token"):
        LogitsKL().bind(student, describe(tiny_model(item="token")))
    with pytest.raises(ModelError, match="vocabulary has 3 rows"):
        LogitsKL().bind(describe(tiny_model(item="token")), describe(tiny_model(item="token", num_labels=5)))
    regression = describe(tiny_model(num_labels=1))
    with pytest.raises(ModelError, match="regression"):
        LogitsKL().bind(regression, regression)


@pytest.mark.parametrize("arguments", [{"weight": -1}, {"temperature": 0}])
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises(RecipeError):
        LogitsKL(**arguments)
