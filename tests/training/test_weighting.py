"""Adaptive weights: each method against loops of plain torch."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from adaptive import adaptive_trainer, everything, logs_of
from test_trainer import NO_DROPOUT, collate, rows
from tiny_models import tiny_model
from tiny_training import few_steps

from distil_nlp.blocks import describe
from distil_nlp.errors import ModelError, RecipeError
from distil_nlp.objectives import HiddenStates, LogitsKL, TaskLoss
from distil_nlp.signals import Needs
from distil_nlp.training import WEIGHTINGS, DistillationTrainer, GradNorm, Uncertainty
from distil_nlp.training.weighting import shared_hidden_state


def plain_terms(student, teacher, made):
    """Cross-entropy, KL at T = 2 and the last hidden states' mean squared error, without any of ours."""
    inputs = {key: made[key] for key in ("input_ids", "attention_mask")}
    ours = student(**inputs, output_hidden_states=True)
    with torch.no_grad():
        theirs = teacher(**inputs, output_hidden_states=True)
    kl = F.kl_div(F.log_softmax(ours.logits / 2, -1), F.softmax(theirs.logits / 2, -1), reduction="batchmean")
    keep = made["attention_mask"].bool()
    last = ours.hidden_states[-1]
    return [
        F.cross_entropy(ours.logits, made["labels"]),
        4 * kl,
        F.mse_loss(last[keep], theirs.hidden_states[-1][keep]),
    ], last


def objectives(weights=(0.5, 0.7, 2.0)):
    return [TaskLoss(weight=weights[0]), LogitsKL(weight=weights[1]), HiddenStates(mapping={-1: -1}, weight=weights[2])]


def test_uncertainty_is_kendalls_loss(tmp_path):
    """Three steps of a loop in plain torch, with s as parameters of the same optimizer."""
    weights = (0.5, 0.7, 2.0)
    trainer = adaptive_trainer(
        tmp_path, terms=objectives(weights), weighting=Uncertainty(learning_rate=0.3), max_grad_norm=0
    )
    student, teacher = copy.deepcopy(trainer.model).train(), copy.deepcopy(trainer.teacher.model)
    trainer.train()
    s = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([{"params": student.parameters()}, {"params": [s], "lr": 0.3}], lr=1e-2)
    made = collate(rows())
    for log in logs_of(trainer):
        terms, _ = plain_terms(student, teacher, made)
        weighted = [w * (-s[i]).exp() * term for i, (w, term) in enumerate(zip(weights, terms, strict=True))]
        regularizer = sum(w * s[i] / 2 for i, w in enumerate(weights))
        names = ("task_loss", "logits_kl", "hidden_states", "uncertainty")
        for name, term in zip(names, [*weighted, regularizer], strict=True):
            assert log[name] == pytest.approx(term.item(), rel=1e-5, abs=1e-7)
        assert log["loss"] == pytest.approx(sum(log[name] for name in names), rel=1e-6)
        loss = sum(weighted) + regularizer
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for i, name in enumerate(names[:3]):
            assert log[f"{name}/balance"] == pytest.approx(math.exp(-s[i].item()), rel=1e-5)  # after the step
    torch.testing.assert_close(trainer.weighting.log_variances, s, rtol=1e-5, atol=1e-6)
    for name, tensor in student.state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


def test_uncertainty_tends_to_terms_of_one_size(tmp_path):
    trainer = adaptive_trainer(
        tmp_path,
        terms=objectives((1.0, 1.0, 1.0)),
        weighting=Uncertainty(learning_rate=0.5),
        learning_rate=0.0,
        max_steps=60,
    )
    trainer.train()
    log = logs_of(trainer)[-1]
    assert [log[name] for name in ("task_loss", "logits_kl", "hidden_states")] == pytest.approx([0.5] * 3, abs=0.02)


def test_a_scheduler_that_knows_no_further_group_is_refused(tmp_path):
    student = tiny_model(seed=1)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    arguments = {"model": student, "teacher": tiny_model(), "objectives": [TaskLoss(), LogitsKL()]}
    arguments |= {"args": few_steps(tmp_path), "train_dataset": rows(), "data_collator": collate}
    trainer = DistillationTrainer(**arguments, weighting=Uncertainty(), optimizers=(optimizer, scheduler))
    with pytest.raises(ModelError, match=r"optimizers=\(optimizer, None\)"):
        trainer.train()
    DistillationTrainer(**arguments, weighting=Uncertainty(), optimizers=(optimizer, None)).train()


def test_uncertainty_is_neither_decayed_nor_clipped_and_has_its_own_learning_rate(tmp_path):
    trainer = adaptive_trainer(
        tmp_path,
        terms=objectives(),
        weighting=Uncertainty(learning_rate=0.3),
        weight_decay=0.1,
        max_grad_norm=1e-6,
        max_steps=1,
    )
    trainer.train()
    group = trainer.optimizer.param_groups[-1]
    assert (group["lr"], group["weight_decay"], len(group["params"])) == (0.3, 0.0, 1)
    assert trainer.weighting.log_variances.abs().max() > 1e-3
    assert sum(len(group["params"]) for group in trainer.optimizer.param_groups) == len(
        [*trainer.model.parameters(), *trainer._added.parameters()]
    )


def norms_of(terms, at):
    return [torch.autograd.grad(term, at, retain_graph=True)[0].pow(2).sum().sqrt().item() for term in terms]


def stepped(balances, pulls, losses, first, *, alpha, rate):
    """GradNorm's step in loops; pulls are norms of b L, losses are bare."""
    mean = sum(pulls) / len(pulls)
    ratios = [loss / start for loss, start in zip(losses, first, strict=True)]
    ratio = sum(ratios) / len(ratios)
    new = []
    for balance, pull, r in zip(balances, pulls, ratios, strict=True):
        target = mean * (r / ratio) ** alpha
        new.append(balance * (target / pull) ** rate)
    return [len(new) * value / sum(new) for value in new]


def test_grad_norm_is_a_loop_of_plain_torch(tmp_path):
    weights, alpha, rate = (0.5, 0.7, 2.0), 1.5, 0.4
    trainer = adaptive_trainer(
        tmp_path, terms=objectives(weights), weighting=GradNorm(alpha=alpha, rate=rate, every=1), max_grad_norm=0
    )
    student, teacher = copy.deepcopy(trainer.model).train(), copy.deepcopy(trainer.teacher.model)
    trainer.train()
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-2)
    made, balances, first = collate(rows()), [1.0] * 3, None
    for log in logs_of(trainer):
        terms, last = plain_terms(student, teacher, made)
        losses = [term.item() for term in terms]
        first = first or losses
        pulls = [b * norm for b, norm in zip(balances, norms_of(terms, last), strict=True)]
        loss = sum(w * b * term for w, b, term in zip(weights, balances, terms, strict=True))
        assert log["loss"] == pytest.approx(loss.item(), rel=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        balances = stepped(balances, pulls, losses, first, alpha=alpha, rate=rate)
        got = [log[f"{name}/balance"] for name in ("task_loss", "logits_kl", "hidden_states")]
        assert got == pytest.approx(balances, rel=1e-4)
    assert max(balances) / min(balances) > 1.2


def test_grad_norm_evens_out_and_keeps_weights_their_meaning(tmp_path):
    """Without progress and with all the way at once, gradients come to be as the weights are."""
    trainer = adaptive_trainer(
        tmp_path,
        terms=objectives((1.0, 2.0, 3.0)),
        weighting=GradNorm(every=1, rate=1.0),
        learning_rate=0.0,
        max_steps=1,
    )
    trainer.train()
    trainer.weighting.apply_balances()
    terms, last = plain_terms(trainer.model, trainer.teacher.model, collate(rows()))
    pulls = [n * o.factor for n, o in zip(norms_of(terms, last), trainer.objectives, strict=True)]
    assert pulls == pytest.approx([pulls[0], 2 * pulls[0], 3 * pulls[0]], rel=1e-4)


def test_grad_norm_measures_now_and_then_and_only_in_training(tmp_path):
    trainer = adaptive_trainer(tmp_path, terms=objectives(), weighting=GradNorm(every=2), max_steps=5)
    seen = []
    update = trainer.weighting._update
    trainer.weighting._update = lambda *args: (seen.append(trainer.state.global_step), update(*args))
    trainer.train()
    assert seen == [0, 2, 4]
    before = copy.deepcopy(everything(trainer))
    trainer.evaluate(rows())
    assert all(torch.equal(tensor, before[name]) for name, tensor in everything(trainer).items())


def test_terms_without_weight_gradient_or_value_do_not_disturb_the_others():
    method = GradNorm(rate=1.0)
    terms = objectives((1.0, 0.0, 1.0))
    method.bind(terms, describe(tiny_model()))
    method._update(torch.tensor([4.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 1.0]))
    balances = method.balances().tolist()
    assert balances == pytest.approx([0.4, 1.0, 1.6])
    method._update(torch.zeros(3), torch.zeros(3))
    assert method.balances().tolist() == pytest.approx(balances)
    assert torch.isfinite(method.balances()).all()


def test_what_all_terms_depend_upon():
    assert shared_hidden_state(Needs(logits=True), 6) == 6
    assert shared_hidden_state(Needs(hidden_states=frozenset({2, 6})), 6) == 2
    assert shared_hidden_state(Needs(attentions=frozenset({3, 4})), 6) == 2
    assert shared_hidden_state(Needs(hidden_states=frozenset({0}), loss=True), 6) == 0


def test_a_frozen_student_below_the_terms_is_refused(tmp_path):
    student = tiny_model(seed=1, num_hidden_layers=2, **NO_DROPOUT)
    for parameter in student.bert.parameters():
        parameter.requires_grad = False
    trainer = adaptive_trainer(tmp_path, terms=[TaskLoss(), LogitsKL()], weighting=GradNorm(), student=student)
    with pytest.raises(ModelError, match="what is below it is frozen"):
        trainer.train()


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("uncertainty", {"learning_rate": 0}),
        ("grad_norm", {"alpha": -1}),
        ("grad_norm", {"every": 0}),
        ("grad_norm", {"rate": 1.5}),
    ],
)
def test_impossible_arguments_are_refused(method, arguments):
    with pytest.raises(RecipeError, match=next(iter(arguments))):
        WEIGHTINGS[method](**arguments)


@pytest.mark.parametrize("method", ["uncertainty", "grad_norm"])
def test_a_chunked_vocabulary_makes_no_difference(tmp_path, monkeypatch, method):
    states = []
    for chunked in (True, False):
        if not chunked:
            monkeypatch.setattr("distil_nlp.training.terms.has_plain_vocabulary_head", lambda model: False)
        trainer = adaptive_trainer(
            tmp_path,
            item="masked",
            student=tiny_model("bert", "masked", seed=1, num_hidden_layers=2, **NO_DROPOUT),
            terms=[TaskLoss(weight=0.5), LogitsKL(), HiddenStates(mapping={2: 3})],
            weighting=WEIGHTINGS[method](),
        )
        assert trainer.needs[True][0].vocabulary == (chunked and method == "uncertainty")
        trainer.train()
        states.append(everything(trainer))
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-4, atol=1e-6)


def test_an_own_term_is_not_an_objective(tmp_path):
    trainer = adaptive_trainer(tmp_path, terms=[TaskLoss(), LogitsKL()], weighting=Uncertainty(), max_steps=1)
    trainer.train()
    assert [o.name for o in trainer.objectives] == ["task_loss", "logits_kl"]
    assert "uncertainty" in logs_of(trainer)[0]
