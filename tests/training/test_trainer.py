import copy
import json
import math

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import batch, tiny_model
from tiny_training import few_steps
from transformers import TrainerCallback

from distil_nlp.errors import ModelError, TrainingError
from distil_nlp.objectives import Attentions, HiddenStates, LogitsKL, TaskLoss
from distil_nlp.training import DistillationTrainer
from distil_nlp.training.checkpoint import SEAL, newest_checkpoint

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LENGTHS = (12, 7, 9, 3, 5, 11, 2, 8)


def rows(item="example"):
    """Eight rows of uneven length; labelled tokens are uneven, too."""
    made = batch(item, rows=8, lengths=LENGTHS)
    if item == "token":
        made["labels"][2] = -100  # a row without a single label
    return [
        {key: value[i][:length] if value.dim() > 1 else value[i] for key, value in made.items()}
        for i, length in enumerate(LENGTHS)
    ]


def collate(features):
    width = max(len(feature["input_ids"]) for feature in features)
    made = {}
    for key in features[0]:
        fill = -100 if key == "labels" else 0
        made[key] = torch.stack(
            [
                f[key] if f[key].dim() == 0 else torch.nn.functional.pad(f[key], (0, width - len(f[key])), value=fill)
                for f in features
            ]
        )
    return made


def objectives():
    return [TaskLoss(weight=0.5), LogitsKL(weight=0.7), HiddenStates(weight=2.0), Attentions(weight=30.0)]


def make_trainer(
    folder, *, item="example", terms=None, student=None, teacher=True, callbacks=None, weighting=None, **arguments
):
    return DistillationTrainer(
        model=student or tiny_model(item=item, seed=1, hidden_size=16, **NO_DROPOUT),
        teacher=tiny_model(item=item, seed=2) if teacher is True else teacher or None,
        objectives=objectives() if terms is None else terms,
        weighting=weighting,
        args=few_steps(folder, **arguments),
        train_dataset=rows(item),
        data_collator=collate,
        callbacks=callbacks,
    )


def trained_weights(trainer):
    trainer.train()
    return {**trainer.model.state_dict(), **{f"o.{k}": v for k, v in trainer.objectives.state_dict().items()}}


def seeded_trainer(*args, **kwargs):
    torch.manual_seed(0)  # the projections' first weights
    return make_trainer(*args, **kwargs)


@pytest.mark.parametrize("item", ["example", "token"])
@pytest.mark.parametrize("micro", [1, 3])
def test_accumulation_is_one_big_batch(tmp_path, item, micro):
    """Micro-batches of uneven token counts, the last of them smaller."""
    whole = seeded_trainer(tmp_path, item=item)
    expected = trained_weights(whole)
    parts = seeded_trainer(
        tmp_path,
        item=item,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=math.ceil(8 / micro),
    )
    got = trained_weights(parts)
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-5, atol=1e-7)
    for name in ("loss", "task_loss", "logits_kl", "hidden_states", "attentions", "grad_norm"):
        assert parts.state.log_history[0][name] == pytest.approx(whole.state.log_history[0][name], rel=1e-5)


def test_terms_sum_to_the_loss(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=5, logging_steps=2, per_device_train_batch_size=3)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 2
    for log in logs:
        total = sum(log[objective.name] for objective in trainer.objectives)
        assert log["loss"] == pytest.approx(total, rel=1e-6)
        assert all(log[objective.name] > 0 for objective in trainer.objectives)


def test_one_step_is_plain_torch(tmp_path):
    """The whole step against a loop written without any of ours: cross-entropy and KL, clipped SGD."""
    student, teacher = tiny_model(seed=1, **NO_DROPOUT), tiny_model(seed=2)
    twin = copy.deepcopy(student)
    trainer = make_trainer(
        tmp_path,
        student=student,
        terms=[TaskLoss(weight=0.3), LogitsKL(weight=0.7, temperature=2.0)],
        max_grad_norm=0.1,
    )
    trainer.train()
    made = collate(rows())
    inputs = {key: made[key] for key in ("input_ids", "attention_mask")}
    logits = twin.train()(**inputs).logits
    target = teacher(**inputs).logits.detach()
    kl = (target / 2).softmax(-1) * ((target / 2).log_softmax(-1) - (logits / 2).log_softmax(-1))
    loss = 0.3 * torch.nn.functional.cross_entropy(logits, made["labels"]) + 0.7 * 4 * kl.sum(-1).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
    torch.optim.SGD(twin.parameters(), lr=1e-2).step()
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[name], tensor, rtol=1e-5, atol=1e-7)


def test_a_projection_is_trained_and_clipped_and_its_gradient_cleared(tmp_path):
    norms = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            grads = [p.grad for p in trainer._trained().parameters() if p.grad is not None]
            norms.append(torch.stack([g.norm() for g in grads]).norm().item())

    trainer = make_trainer(tmp_path, max_grad_norm=0.01, max_steps=3, callbacks=[Watch()])
    before = copy.deepcopy(trainer.objectives.state_dict())
    assert before
    trainer.train()
    assert norms == [pytest.approx(0.01, rel=1e-3)] * 3
    after = trainer.objectives.state_dict()
    assert all(not torch.equal(after[name], before[name]) for name in before)
    one_step = make_trainer(tmp_path, terms=[HiddenStates()], max_grad_norm=0, max_steps=2, learning_rate=0.0)
    one_step.train()  # nothing moves, so a gradient that is not cleared would have doubled
    logs = one_step.state.log_history
    assert logs[1]["grad_norm"] == pytest.approx(logs[0]["grad_norm"], rel=1e-5)


def test_the_saved_student_holds_nothing_of_the_objectives(tmp_path):
    trainer = make_trainer(tmp_path, save_strategy="steps", save_steps=1)
    trainer.train()
    checkpoint = tmp_path / "checkpoint-1"
    saved = load_file(checkpoint / "model.safetensors")
    assert saved.keys() <= trainer.model.state_dict().keys()
    assert load_file(checkpoint / "objectives.safetensors").keys() == trainer.objectives.state_dict().keys()


@pytest.mark.parametrize("order", ["random", "group_by_length"])
def test_resuming_gives_the_same_weights(tmp_path, order):
    """In mid-epoch; with dropout, so that the random state counts, and a trained projection."""
    arguments = {
        "max_steps": 8,
        "train_sampling_strategy": order,
        "per_device_train_batch_size": 2,
        "optim": "adamw_torch",
        "save_strategy": "steps",
        "save_steps": 2,
        "lr_scheduler_type": "linear",
    }

    def student():
        return tiny_model(seed=1, hidden_size=16)

    expected = trained_weights(seeded_trainer(tmp_path / "whole", student=student(), **arguments))

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 7

    trainer = seeded_trainer(tmp_path / "cut", student=student(), callbacks=[Stop()], **arguments)
    trainer.train()
    torch.manual_seed(99)
    again = make_trainer(tmp_path / "cut", student=student(), **arguments)
    again.train(resume_from_checkpoint=True)
    got = {**again.model.state_dict(), **{f"o.{k}": v for k, v in again.objectives.state_dict().items()}}
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor), name


def test_an_unsealed_checkpoint_is_passed_over_and_a_damaged_one_named(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=3, save_strategy="steps", save_steps=1, save_total_limit=3)
    trainer.train()
    (tmp_path / "checkpoint-3" / SEAL).unlink()
    assert newest_checkpoint(tmp_path).name == "checkpoint-2"
    weights = tmp_path / "checkpoint-2" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(TrainingError, match=r"model\.safetensors does not have the checksum"):
        newest_checkpoint(tmp_path)
    weights.write_bytes(data[:100])
    with pytest.raises(TrainingError, match="has 100 bytes instead of"):
        make_trainer(tmp_path).train(resume_from_checkpoint=True)


def test_a_checkpoint_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(TrainingError, match="no whole checkpoint"):
        make_trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))


def test_a_step_without_any_labelled_token_changes_nothing_and_stays_finite(tmp_path):
    trainer = make_trainer(tmp_path, item="token", terms=[TaskLoss(), LogitsKL()])
    trainer.train_dataset = [{**row, "labels": torch.full_like(row["labels"], -100)} for row in rows("token")]
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == 0
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_old_checkpoints_are_rotated_after_the_new_one_is_sealed(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=4, save_strategy="steps", save_steps=1, save_total_limit=2)
    trainer.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]
    assert trainer.args.save_total_limit == 2


def test_a_loss_that_is_not_finite_stops_training_and_names_the_term(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=3, save_strategy="steps", save_steps=1)

    class Break(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 1:
                trainer.teacher.model.classifier.weight.data.fill_(math.nan)

    trainer.add_callback(Break())
    with pytest.raises(TrainingError, match=r"(?s)step 2.*logits_kl = nan") as caught:
        trainer.train()
    assert "task_loss = nan" not in str(caught.value)
    assert newest_checkpoint(tmp_path).name == "checkpoint-1"


def test_evaluation_and_prediction_give_logits_alone(tmp_path):
    trainer = make_trainer(tmp_path)
    prediction = trainer.predict(rows())
    assert prediction.predictions.shape == (8, 3)
    assert math.isfinite(prediction.metrics["test_loss"])


def test_without_a_teacher_it_is_fine_tuning(tmp_path):
    trainer = make_trainer(tmp_path, teacher=False, terms=[TaskLoss()])
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(trainer.state.log_history[0]["task_loss"])
    with pytest.raises(ModelError, match="logits_kl needs a teacher"):
        make_trainer(tmp_path, teacher=False, terms=[LogitsKL()])


def test_columns_that_only_the_teacher_reads_are_kept(tmp_path):
    student = tiny_model("distilbert", seed=1)
    trainer = make_trainer(tmp_path, student=student, terms=[LogitsKL()])
    trainer._set_signature_columns_if_needed()
    assert "token_type_ids" in trainer._signature_columns
    data = [{**row, "token_type_ids": torch.ones_like(row["input_ids"])} for row in rows()]
    inputs = collate(data)
    seen = trainer.teacher(inputs, trainer.needs[False][1]).logits
    torch.testing.assert_close(seen, trainer.teacher.model(**{k: v for k, v in inputs.items() if k != "labels"}).logits)
    assert not torch.allclose(
        seen,
        trainer.teacher({k: v for k, v in inputs.items() if k != "token_type_ids"}, trainer.needs[False][1]).logits,
    )
    trainer.train_dataset = data
    trainer.train()  # and the student is spared it


@pytest.mark.parametrize(
    "arguments",
    [
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    ],
)
def test_arguments_that_would_be_passed_over_are_refused(tmp_path, arguments):
    with pytest.raises(ModelError, match="does not go with that"):
        make_trainer(tmp_path, **arguments)


def test_terms_sum_to_the_loss_after_resuming(tmp_path):
    arguments = {"max_steps": 4, "save_strategy": "steps", "save_steps": 3, "logging_steps": 2}
    make_trainer(tmp_path, **arguments).train()
    again = make_trainer(tmp_path, **arguments)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    log = [log for log in again.state.log_history if "loss" in log][-1]
    assert log["step"] == 4
    assert log["loss"] == pytest.approx(sum(log[objective.name] for objective in again.objectives), rel=1e-6)


def test_objectives_are_given_once_each(tmp_path):
    with pytest.raises(ModelError, match="each of them once"):
        make_trainer(tmp_path, terms=[LogitsKL(), LogitsKL()])


def test_the_log_is_json(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    json.dumps(trainer.state.log_history)
