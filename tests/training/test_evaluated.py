"""What an evaluation says of the loss: one yardstick, by hand, however rows are cut into batches."""

import pytest
import torch
import torch.nn.functional as F
from test_trainer import NO_DROPOUT, collate, rows
from tiny_models import tiny_model
from tiny_training import few_steps
from torch import nn

from distil_nlp.errors import ModelError
from distil_nlp.objectives import HiddenStates, LogitsKL, TaskLoss
from distil_nlp.training import DistillationTrainer, GradNorm, Linear, ScheduleCallback, Uncertainty


def token_trainer(folder, objectives, *, given=None, **arguments):
    kind = {"item": "token"}
    return DistillationTrainer(
        tiny_model(seed=1, **kind, **NO_DROPOUT),
        few_steps(folder, **arguments),  # in transformers' place, unnamed
        teacher=tiny_model(seed=2, initializer_range=0.3, **kind),
        objectives=objectives,
        train_dataset=rows("token"),
        eval_dataset=rows("token"),
        data_collator=collate,
        **(given or {}),
    )


def by_hand(trainer):
    """Over all rows at once: the mean over labelled tokens, and over all tokens."""
    made = collate(rows("token"))
    labels = made.pop("labels")
    with torch.no_grad():
        ours, theirs = (model.eval()(**made).logits for model in (trainer.model, trainer.teacher.model))
    task = F.cross_entropy(ours.flatten(0, 1), labels.flatten())
    kept = labels.flatten() != -100
    kl = F.kl_div(ours.log_softmax(-1).flatten(0, 1)[kept], theirs.softmax(-1).flatten(0, 1)[kept], reduction="none")
    return task.item(), kl.sum(-1).mean().item()


@pytest.mark.parametrize("size", [1, 3, 8])  # 1: a batch without any label, and batches of uneven length
def test_loss_and_terms_are_those_of_all_rows(tmp_path, size):
    objectives = [TaskLoss(weight=0.5), LogitsKL(weight=2.0, temperature=1.0), HiddenStates(weight=0.0)]
    trainer = token_trainer(tmp_path, objectives, per_device_eval_batch_size=size)
    task, kl = by_hand(trainer)
    for found, prefix in ((trainer.evaluate(), "eval"), (trainer.predict(rows("token")).metrics, "test")):
        assert found[f"{prefix}_task_loss"] == pytest.approx(task, rel=1e-5)
        assert found[f"{prefix}_logits_kl"] == pytest.approx(kl, rel=1e-4)
        assert found[f"{prefix}_loss"] == pytest.approx(0.5 * task + 2 * kl, rel=1e-4)
        assert f"{prefix}_hidden_states" not in found  # it has no weight


@pytest.mark.parametrize("weighting", [GradNorm(every=1), Uncertainty(learning_rate=0.5)])
def test_what_a_weighting_learns_is_left_out(tmp_path, weighting):
    trainer = token_trainer(
        tmp_path,
        [TaskLoss(), LogitsKL(weight=3.0, temperature=1.0)],
        given={"weighting": weighting},
        max_steps=3,
        learning_rate=0.0,
        eval_strategy="steps",
        eval_steps=1,
    )
    task, kl = by_hand(trainer)
    trainer.train()
    losses = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    assert losses == pytest.approx([task + 3 * kl] * 3, rel=1e-4)
    assert weighting.balances().tolist() != [1.0, 1.0]


def test_the_best_model_can_be_chosen_by_a_term(tmp_path):
    kl = LogitsKL()
    trainer = token_trainer(
        tmp_path,
        [TaskLoss(weight=1e-6), kl],
        given={"callbacks": [ScheduleCallback(kl, "weight", Linear(9.0, 0.0))]},
        max_steps=3,
        learning_rate=0.1,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="task_loss",
    )
    trainer.train()
    logs = [log for log in trainer.state.log_history if "eval_loss" in log]
    losses, terms = ([log[name] for log in logs] for name in ("eval_loss", "eval_task_loss"))
    assert trainer.state.best_metric == pytest.approx(min(terms))
    assert terms.index(min(terms)) != losses.index(min(losses)) == 2  # of a weight that falls


def test_rows_without_any_label_have_no_loss(tmp_path):
    trainer = token_trainer(tmp_path, [TaskLoss()])
    dead = [{**row, "labels": torch.full_like(row["labels"], -100)} for row in rows("token")]
    assert "eval_loss" not in trainer.evaluate(dead)


def test_what_is_random_in_an_objective_is_so_in_training_only(tmp_path):
    class Dropped(HiddenStates):
        name = "dropped"

        def __init__(self):
            super().__init__()
            self.dropout = nn.Dropout(0.5)

        def compare(self, student, teacher):
            return super().compare(self.dropout(student), teacher)

    trainer = token_trainer(tmp_path, [Dropped()])
    first, again = (trainer.evaluate()["eval_loss"] for _ in range(2))
    assert first == again
    trainer.model.train()
    made = collate(rows("token"))
    assert trainer.compute_loss(trainer.model, made) != trainer.compute_loss(trainer.model, made)


# ---- what else one training must not leave to another ----


def test_projections_do_not_move_what_the_student_draws(tmp_path):
    drawn = []
    for objectives in ([TaskLoss()], [TaskLoss(), HiddenStates(weight=0.0, mapping={1: 1}, projection="mlp")]):
        trainer = DistillationTrainer(
            tiny_model(seed=1, hidden_size=16, hidden_dropout_prob=0.3),
            teacher=tiny_model(seed=2),
            objectives=objectives,
            args=few_steps(tmp_path, max_steps=2),
            train_dataset=rows(),
            data_collator=collate,
        )
        trainer.train()
        drawn.append([log["task_loss"] for log in trainer.state.log_history if "task_loss" in log])
    assert drawn[0] == drawn[1]


def test_projections_serve_the_next_student_if_they_fit_it(tmp_path):
    objective = HiddenStates(projection="linear")

    def layers(depth, width=16):
        DistillationTrainer(
            tiny_model(seed=1, hidden_size=width, num_hidden_layers=depth),
            teacher=tiny_model(seed=2),
            objectives=[objective],
            args=few_steps(tmp_path),
        )
        return objective.projection.layers

    first = layers(2)
    assert layers(2) is first
    assert len(layers(4)) == 4
    assert layers(4, width=8)[0].in_features == 8


def test_label_smoothing_is_one_trainers(tmp_path):
    objective = TaskLoss()
    plain, smooth, again = (
        token_trainer(tmp_path, [objective], label_smoothing_factor=factor).evaluate()["eval_loss"]
        for factor in (0.0, 0.3, 0.0)
    )
    assert smooth != plain == again
    with pytest.raises(ModelError, match=r"label_smoothing=0\.1 itself"):
        token_trainer(tmp_path, [TaskLoss(label_smoothing=0.1)], label_smoothing_factor=0.3)
