"""What a user of transformers.Trainer does with it, where distillation could get in the way."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_trainer import NO_DROPOUT, collate, rows
from tiny_models import tiny_model
from tiny_training import few_steps
from transformers import TrainerCallback

from distil_nlp.objectives import HiddenStates, LogitsKL, TaskLoss
from distil_nlp.training import DistillationTrainer, GradNorm, Linear, ScheduleCallback, Uncertainty


def trainer_of(folder, objectives=None, *, student=None, teacher=None, train=None, given=None, **arguments):
    torch.manual_seed(0)  # of the projections
    return DistillationTrainer(
        model=tiny_model(seed=1, hidden_size=16, num_hidden_layers=2, **NO_DROPOUT) if student is None else student,
        teacher=teacher or tiny_model(seed=2),
        objectives=objectives or [TaskLoss(), HiddenStates(mapping={2: 4})],
        args=few_steps(folder, **{"max_steps": 3, **arguments}),
        **{"train_dataset": rows() if train is None else train, "data_collator": collate, **(given or {})},
    )


def without_labels():
    return [{key: value for key, value in row.items() if key != "labels"} for row in rows()]


def check_sums(trainer):
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert logs
    for log in logs:
        assert log["loss"] == pytest.approx(sum(log[name] for name in trainer.term_names), rel=1e-5)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(rows())


class At(TrainerCallback):
    """Does something once, when as many micro-batches are done."""

    def __init__(self, number, do):
        self.left, self.do = number, do

    def on_substep_end(self, args, state, control, **kwargs):
        self.left -= 1
        if self.left == 0:
            self.do()

    on_step_end = on_substep_end


# ---- what is logged, and what a broken step leaves ----


@pytest.mark.parametrize("accumulation", [1, 3])  # 3: each pass over the 4 micro-batches ends in a part of a step
def test_terms_sum_to_the_loss_on_a_stream(tmp_path, accumulation):
    trainer = trainer_of(
        tmp_path,
        train=Stream(),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=accumulation,
        max_steps=5,
        logging_steps=5,
    )
    trainer.train()
    check_sums(trainer)


def test_a_projection_keeps_the_gradient_that_the_student_keeps(tmp_path):
    """Of a pass that ended in a part of a step: transformers adds it to the next one."""
    norms = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            norms.append([each.grad.norm().item() for each in trainer.objectives.parameters()])

    trainer = trainer_of(
        tmp_path,
        [HiddenStates(mapping={2: 4})],
        train=Stream(),
        per_device_train_batch_size=3,
        gradient_accumulation_steps=2,
        max_steps=2,
        learning_rate=0.0,
        max_grad_norm=0,
        given={"callbacks": [Watch()]},
    )
    trainer.train()
    last, first = (
        torch.autograd.grad(trainer.compute_loss(trainer.model.train(), collate(part)), trainer.objectives.parameters())
        for part in (rows()[6:], rows()[:6])
    )
    expected = [(one + two).norm().item() for one, two in zip(last, first, strict=True)]
    assert norms[1] == pytest.approx(expected, rel=1e-4)


def test_terms_sum_to_the_loss_when_a_smaller_batch_size_was_found(tmp_path):
    def out_of_memory():
        raise RuntimeError("CUDA out of memory.")

    trainer = trainer_of(
        tmp_path,
        per_device_train_batch_size=4,
        auto_find_batch_size=True,
        logging_steps=3,
        given={"callbacks": [At(2, out_of_memory)]},
    )
    trainer.train()
    assert trainer._train_batch_size < 4
    check_sums(trainer)


def test_what_was_gathered_of_a_step_that_broke_off_is_forgotten(tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    arguments = {
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 3,
        "max_steps": 1,
        "train_sampling_strategy": "sequential",
    }
    expected = trainer_of(tmp_path, given={"weighting": GradNorm(every=1)}, **arguments)
    expected.train()
    trainer = trainer_of(tmp_path, given={"weighting": GradNorm(every=1), "callbacks": [At(1, interrupt)]}, **arguments)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.train()
    check_sums(trainer)
    torch.testing.assert_close(trainer.weighting.balances(), expected.weighting.balances())


# ---- evaluation ----


def test_the_loss_of_evaluation_does_not_depend_on_gradient_accumulation(tmp_path):
    losses = []
    for accumulation in (1, 4):
        trainer = trainer_of(
            tmp_path,
            per_device_train_batch_size=8 // accumulation,
            gradient_accumulation_steps=accumulation,
            given={"weighting": Uncertainty(learning_rate=0.05)},
        )
        trainer.train()
        losses.append(trainer.evaluate(rows())["eval_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_what_follows_the_teacher_alone_is_evaluated_without_labels(tmp_path):
    student = tiny_model(seed=1, initializer_range=0.2)
    trainer = trainer_of(tmp_path, [LogitsKL(temperature=2.0)], student=student, per_device_eval_batch_size=3)
    made, teacher = collate(rows()), trainer.teacher.model
    inputs = {key: made[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        ours, theirs = student.eval()(**inputs).logits, teacher(**inputs).logits
    expected = 4 * F.kl_div((ours / 2).log_softmax(-1), (theirs / 2).softmax(-1), reduction="batchmean")
    assert trainer.evaluate(without_labels())["eval_loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert trainer.label_names == ["labels"]
    trainer.teacher = None  # predictions are the student's
    prediction = trainer.predict(without_labels())
    torch.testing.assert_close(torch.from_numpy(prediction.predictions), ours)
    assert prediction.label_ids is None


def test_labels_are_missed_by_no_one_in_evaluation(tmp_path):
    assert "eval_loss" not in trainer_of(tmp_path).evaluate(without_labels())


def test_prediction_and_evaluation_share_a_collator_and_all_columns_are_kept(tmp_path):
    class Reads:
        def __init__(self, *columns):
            self.columns, self.calls = columns, 0

        def __call__(self, features):
            self.calls += 1
            assert all(column in features[0] for column in self.columns)
            return collate([{k: v for k, v in row.items() if k not in self.columns} for row in features])

    train, evaluation = Reads("mine"), Reads("yours")
    data = [{**row, "mine": torch.tensor(1), "yours": torch.tensor(2)} for row in rows()]
    given = {"data_collator": train, "eval_collator": evaluation}
    trainer = trainer_of(tmp_path, train=data, max_steps=1, given=given)
    trainer.evaluate(data)
    trainer.predict(data)
    assert (train.calls, evaluation.calls) == (0, 2)
    trainer.train()
    assert train.calls > 0


def test_the_evaluation_before_the_first_step_follows_the_schedule(tmp_path):
    kl = LogitsKL(weight=1.0)
    given = {"callbacks": [ScheduleCallback(kl, "weight", Linear(3.0, 0.0))], "eval_dataset": rows()}
    trainer = trainer_of(tmp_path, [kl], eval_on_start=True, max_steps=1, learning_rate=0.0, given=given)
    plain = trainer.evaluate()["eval_loss"]
    trainer.train()
    started = next(log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log)
    assert started == pytest.approx(3 * plain, rel=1e-5)


def test_ligers_models_are_asked_for_logits_when_evaluated(tmp_path):
    student = tiny_model(seed=1, **NO_DROPOUT)
    plain = student.forward

    def forward(input_ids=None, attention_mask=None, labels=None, skip_logits=None):
        assert not skip_logits
        return plain(input_ids=input_ids, attention_mask=attention_mask, labels=labels)

    student.forward = forward
    trainer = trainer_of(tmp_path, [TaskLoss(), LogitsKL()], student=student)
    trainer.args.use_liger_kernel = True
    assert math.isfinite(trainer.evaluate(rows())["eval_loss"])


@pytest.mark.parametrize("cached", [True, False])
def test_a_student_keeps_its_cache(tmp_path, cached):
    """Of keys and values; transformers' Trainer switches it off in the configuration, and saves that."""
    student = tiny_model("gpt2", "next_token", seed=1, num_hidden_layers=2, use_cache=cached)
    trainer = DistillationTrainer(
        model=student,
        teacher=tiny_model("gpt2", "next_token", seed=2),
        objectives=[TaskLoss(), LogitsKL()],
        args=few_steps(tmp_path, max_steps=1),
        train_dataset=rows("token"),
        data_collator=collate,
    )
    trainer.train()
    trainer.save_model(tmp_path / "student")
    again = type(student).from_pretrained(tmp_path / "student").eval()
    assert again.config.use_cache == cached
    assert (again(input_ids=torch.ones(1, 3, dtype=torch.long)).past_key_values is not None) == cached
