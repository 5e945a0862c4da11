import pytest
import torch
import torch.nn.functional as F
from tiny_objectives import ITEMS, make, models, run

from distil_nlp.blocks import describe
from distil_nlp.objectives import DKD, LogitsKL, LogitsMSE, TaskLoss


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


UNKNOWN = {"multi_label_classification": float("nan"), "regression": float("nan"), "token": -101, "span": -100}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_items_whose_label_is_not_known_are_left_to_the_teacher(kind):
    """The twin is the student's own loss on a batch of the labelled rows alone, times their share."""
    student, teacher = models(kind)
    made = make(kind, lengths=(12, 12, 12, 12))
    if kind == "span":
        made["start_positions"], made["end_positions"] = torch.tensor([3, 1, 0, 5]), torch.tensor([4, 1, 2, 11])
    labels = ("start_positions", "end_positions") if kind == "span" else ("labels",)
    kept = {key: value[[0, 3]] for key, value in made.items()}
    items = int((kept["labels"] != -100).sum()) if kind == "token" else 2
    for key in labels:
        rows = made[key][1:3]
        made[key][1:3] = torch.where(rows == -100, rows, UNKNOWN[kind]) if kind == "token" else UNKNOWN[kind]
    objective = TaskLoss()
    loss = run(objective, student, teacher, made)
    torch.testing.assert_close(loss, student(**kept).loss)
    assert objective.count(made) == items
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)
    student.zero_grad()
    for other in (LogitsMSE() if kind == "regression" else LogitsKL(),):
        other.bind(describe(student), describe(teacher))
        everything = make(kind, lengths=(12, 12, 12, 12))
        assert other.count(made) == other.count(everything)
        torch.testing.assert_close(run(other, student, teacher, made), run(other, student, teacher, everything))


@pytest.mark.parametrize("kind", ["example", *UNKNOWN])
def test_of_a_batch_of_which_no_label_is_known_is_zero(kind):
    student, teacher = models(kind)
    made = make(kind)
    for key in ("labels", "start_positions", "end_positions"):
        if key in made:
            made[key] = torch.full_like(made[key], UNKNOWN.get(kind, -100))
    loss = run(TaskLoss(), student, teacher, made)
    loss.backward()
    assert loss == 0
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)


def test_a_smoothed_loss_passes_over_tokens_whose_label_is_not_known():
    student, teacher = models("token")
    made = make("token")
    kept = made["labels"].clone()
    made["labels"][1:3] = torch.where(made["labels"][1:3] == -100, -100, -101)
    kept[1:3] = -100
    objective = TaskLoss(label_smoothing=0.1)
    loss = run(objective, student, teacher, made)
    logits = student(made["input_ids"], made["attention_mask"]).logits
    torch.testing.assert_close(loss, F.cross_entropy(logits.flatten(0, 1), kept.flatten(), label_smoothing=0.1))


def test_a_target_that_nobody_knows_is_the_teachers_likeliest():
    """For objectives that look at the label: dkd with unlabelled spans is dkd without labels."""
    student, teacher = models("span")
    made = make("span")
    without = {key: value for key, value in made.items() if not key.endswith("positions")}
    made["start_positions"] = made["end_positions"] = torch.full((4,), -100)
    torch.testing.assert_close(run(DKD(), student, teacher, made), run(DKD(), student, teacher, without))


def test_spans_beyond_the_last_token_are_left_out_one_by_one():
    """Of the third both ends are outside, of the fourth one; the twin goes over the others by hand."""
    student, teacher = models("span")
    made = make("span", tokens=6, lengths=(6, 6, 6, 6))
    made |= {"start_positions": torch.tensor([1, 2, 9, 3]), "end_positions": torch.tensor([2, 3, 9, 6])}
    output = student(made["input_ids"], made["attention_mask"])
    twin = 0.0
    for row in (0, 1):
        for logits, ends in ((output.start_logits, "start_positions"), (output.end_logits, "end_positions")):
            twin = twin - logits[row].log_softmax(0)[made[ends][row]] / 4
    objective = TaskLoss()
    torch.testing.assert_close(run(objective, student, teacher, made), twin)
    assert objective.count(made) == 2
    parts = [{key: value[rows] for key, value in made.items()} for rows in (slice(0, 1), slice(1, 3), slice(3, 4))]
    terms = [run(objective, student, teacher, part, torch.tensor(2.0)) for part in parts]
    torch.testing.assert_close(sum(terms), twin)
