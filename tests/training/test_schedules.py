"""Schedules by their formulas, and at work in training."""

import math

import pytest
import torch
from adaptive import adaptive_trainer, everything, logs_of
from transformers import TrainerCallback

from distil_nlp.errors import RecipeError
from distil_nlp.objectives import HiddenStates, LogitsKL, TaskLoss
from distil_nlp.training import SCHEDULES, Constant, Cosine, Linear, ScheduleCallback, Switch, Warmup
from distil_nlp.training.schedules import schedule_from


@pytest.mark.parametrize(
    ("schedule", "values"),  # at 0, 1/4, 1/2, 3/4 and 1
    [
        (Constant(3.0), [3, 3, 3, 3, 3]),
        (Linear(1.0, 0.2), [1, 0.8, 0.6, 0.4, 0.2]),
        (Cosine(8.0, 1.0), [8, 1 + 7 * (2 + math.sqrt(2)) / 4, 4.5, 1 + 7 * (2 - math.sqrt(2)) / 4, 1]),
        (Warmup(2.0, over=0.5), [0, 1, 2, 2, 2]),
        (Switch(at=0.5, before=1.0, after=0.0), [1, 1, 0, 0, 0]),
    ],
)
def test_values(schedule, values):
    assert [schedule(quarter / 4) for quarter in range(5)] == pytest.approx(values, abs=1e-12)
    assert min(schedule.extremes) == min(values)
    assert max(schedule.extremes) == max(values)


@pytest.mark.parametrize(
    ("written", "schedule"),
    [
        ({"schedule": "constant", "value": 1}, Constant(1.0)),
        ({"schedule": "linear", "start": 1.0, "end": 0}, Linear(1.0, 0.0)),
        ({"schedule": "cosine", "start": 8, "end": 1}, Cosine(8.0, 1.0)),
        ({"schedule": "warmup", "value": 1.0}, Warmup(1.0, 0.1)),
        ({"schedule": "warmup", "value": 1.0, "over": 0.2}, Warmup(1.0, 0.2)),
        ({"schedule": "switch", "at": 0.5, "before": 1.0, "after": 0.0}, Switch(0.5, 1.0, 0.0)),
    ],
)
def test_as_recipes_write_them(written, schedule):
    assert schedule_from(written) == schedule
    assert written["schedule"] in SCHEDULES


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"schedule": "liner", "start": 1, "end": 0}, "Did you mean 'linear'"),
        ({"schedule": "linear", "start": 1}, "It lacks end"),
        ({"schedule": "linear", "start": 1, "ende": 0}, "Did you mean 'end'"),
        ({"schedule": "linear", "start": "high", "end": 0}, "'start' is 'high'"),
        ({"schedule": "constant", "value": True}, "A number is needed"),
        ({"schedule": "switch", "at": 0, "before": 1, "after": 0}, "above 0 and at most 1"),
        ({"schedule": "warmup", "value": 1, "over": 1.5}, "above 0 and at most 1"),
    ],
)
def test_malformed_ones_are_refused(written, words):
    with pytest.raises(RecipeError, match=words):
        schedule_from(written)


@pytest.mark.parametrize(
    ("attribute", "schedule", "words"),
    [
        ("temprature", Linear(4, 1), "Of this objective: weight, temperature"),
        ("standardize", Linear(4, 1), "Weights and temperatures"),
        ("weight", Linear(1, -0.1), "down to -0.1"),
        ("temperature", Linear(4, 0), "A temperature is above 0"),
        ("temperature", Warmup(4), "A temperature is above 0"),
    ],
)
def test_what_cannot_follow_a_schedule(attribute, schedule, words):
    with pytest.raises(RecipeError, match=words):
        ScheduleCallback(LogitsKL(), attribute, schedule)


def scheduled(folder, **arguments):
    kl, features = LogitsKL(temperature=8.0), HiddenStates()
    callbacks = [
        ScheduleCallback(kl, "weight", Linear(1.0, 0.2)),
        ScheduleCallback(kl, "temperature", Cosine(8.0, 1.0)),
        ScheduleCallback(features, "weight", Switch(at=0.5, before=2.0, after=0.0)),
        *arguments.pop("more", ()),
    ]
    return adaptive_trainer(folder, terms=[TaskLoss(), kl, features], callbacks=callbacks, **arguments)


def test_values_are_set_at_each_step_and_logged(tmp_path):
    trainer = scheduled(tmp_path, max_steps=4)
    trainer.train()
    logs = logs_of(trainer)
    assert [log["logits_kl/weight"] for log in logs] == pytest.approx([1, 0.8, 0.6, 0.4])
    assert [log["logits_kl/temperature"] for log in logs] == pytest.approx([Cosine(8, 1)(q / 4) for q in range(4)])
    assert [log["hidden_states/weight"] for log in logs] == [2, 2, 0, 0]
    assert "task_loss/weight" not in logs[0]
    assert [log["hidden_states"] > 0 for log in logs] == [True, True, False, False]
    for log in logs:
        assert log["loss"] == pytest.approx(log["task_loss"] + log["logits_kl"] + log["hidden_states"], rel=1e-6)


def test_a_step_is_that_of_the_constant_value(tmp_path):
    """Steps of a run whose weight switches, against two runs with the values themselves."""
    kl = LogitsKL()
    switching = adaptive_trainer(
        tmp_path, terms=[TaskLoss(), kl], max_steps=2, callbacks=[ScheduleCallback(kl, "weight", Switch(0.5, 3.0, 0.5))]
    )
    switching.train()
    first = adaptive_trainer(tmp_path, terms=[TaskLoss(), LogitsKL(weight=3.0)], max_steps=1)
    first.train()
    second = adaptive_trainer(tmp_path, terms=[TaskLoss(), LogitsKL(weight=0.5)], max_steps=1, student=first.model)
    second.train()
    for name, tensor in everything(second).items():
        torch.testing.assert_close(switching.model.state_dict()[name], tensor, rtol=1e-5, atol=1e-7)


class Watched:
    """A teacher that keeps what it is asked for, and at which step."""

    def __init__(self, trainer):
        self.trainer, self.teacher, self.asked = trainer, trainer.teacher, []

    def __call__(self, batch, needs):
        self.asked.append((self.trainer.state.global_step, needs))
        return self.teacher(batch, needs)

    def __getattr__(self, name):
        return getattr(self.teacher, name)


@pytest.mark.parametrize("item", ["example", "token"])  # of the latter, a step runs the vocabulary head by itself
def test_nothing_is_computed_for_what_has_weight_0(tmp_path, item):
    kl, features = LogitsKL(), HiddenStates()
    trainer = adaptive_trainer(
        tmp_path,
        item=item,
        terms=[TaskLoss(), kl, features],
        max_steps=6,
        callbacks=[
            ScheduleCallback(features, "weight", Switch(at=0.3, before=1.0, after=0.0)),
            ScheduleCallback(kl, "weight", Switch(at=0.6, before=1.0, after=0.0)),
        ],
    )
    trainer.teacher = Watched(trainer)
    trainer.train()
    assert [(step, needs.head, bool(needs.hidden_states)) for step, needs in trainer.teacher.asked] == [
        (0, True, True), (1, True, True), (2, True, False), (3, True, False)
    ]  # fmt: skip
    for log in logs_of(trainer):
        assert log["loss"] == pytest.approx(log["task_loss"] + log["logits_kl"] + log["hidden_states"], rel=1e-6)
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] > 0
    assert len(trainer.teacher.asked) == 4


def test_objectives_at_weight_0_are_as_none(tmp_path):
    terms = [TaskLoss(), LogitsKL(weight=0.0), HiddenStates(weight=0.0)]
    trainer = adaptive_trainer(tmp_path, terms=terms, weight_decay=0.5)
    before = {name: tensor.clone() for name, tensor in trainer._added.state_dict().items()}
    plain = adaptive_trainer(tmp_path, terms=[TaskLoss()], weight_decay=0.5)
    trainer.train()
    plain.train()
    for name, tensor in everything(plain).items():
        assert torch.equal(everything(trainer)[name], tensor)
    for name, tensor in before.items():
        assert torch.equal(trainer._added.state_dict()[name], tensor)


def test_weights_that_all_come_to_0_end_the_changes(tmp_path):
    kl = LogitsKL()
    schedule = ScheduleCallback(kl, "weight", Switch(at=0.5, before=1.0, after=0.0))
    trainer = adaptive_trainer(tmp_path, terms=[kl], max_steps=4, callbacks=[schedule])
    trainer.train()
    assert [log["loss"] > 0 for log in logs_of(trainer)] == [True, True, False, False]
    assert [log["grad_norm"] > 0 for log in logs_of(trainer)] == [True, True, False, False]


def test_accumulation_is_one_big_batch(tmp_path):
    whole, parts = (
        scheduled(tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=steps)
        for size, steps in ((8, 1), (3, 3))
    )
    whole.train()
    parts.train()
    for name, tensor in everything(whole).items():
        torch.testing.assert_close(everything(parts)[name], tensor, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(logs_of(parts), logs_of(whole), strict=True):
        for name in ("loss", "logits_kl", "logits_kl/weight", "logits_kl/temperature"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5)


def test_resuming_goes_on_with_the_schedule(tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3

    arguments = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 2}
    whole = scheduled(tmp_path / "whole", **arguments)
    whole.train()
    scheduled(tmp_path / "cut", more=[Stop()], **arguments).train()
    again = scheduled(tmp_path / "cut", **arguments)
    again.train(resume_from_checkpoint=True)
    for name, tensor in everything(whole).items():
        assert torch.equal(everything(again)[name], tensor), name
    assert logs_of(again)[-1] == pytest.approx(logs_of(whole)[-1])
