"""Checkpoints of a trainer whose objectives have a state of their own."""

import shutil
from pathlib import Path

import pytest
import torch
from test_as_in_transformers import At, trainer_of
from test_trainer import rows
from transformers import Trainer

from distil_nlp.errors import TrainingError
from distil_nlp.objectives import HiddenStates, LogitsKL, TaskLoss
from distil_nlp.training import GradNorm, Uncertainty
from distil_nlp.training.checkpoint import SEAL


@pytest.mark.parametrize("only_model", [False, True])
def test_the_best_checkpoint_is_loaded_with_its_projections(tmp_path, only_model):
    trainer = trainer_of(
        tmp_path,
        [HiddenStates(mapping={2: 4})],
        max_steps=2,
        learning_rate=3.0,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_only_model=only_model,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        given={"eval_dataset": rows(), "weighting": Uncertainty()},
    )
    trainer.train()
    losses = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    assert losses[1] > losses[0]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[0], rel=1e-6)


def test_training_goes_on_from_a_checkpoint_of_the_model_only(tmp_path):
    arguments = {"save_strategy": "steps", "save_steps": 1, "save_only_model": True}
    first = trainer_of(tmp_path, max_steps=2, **arguments)
    first.train()
    again = trainer_of(tmp_path, learning_rate=0.0, **arguments)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 3
    for name, tensor in first.objectives.state_dict().items():
        assert torch.equal(again.objectives.state_dict()[name], tensor)


def test_a_checkpoint_that_was_made_at_a_signal_is_whole(tmp_path):
    def signal():
        callbacks = {type(each).__name__: each for each in trainer.callback_handler.callbacks}
        callbacks["JITCheckpointCallback"].jit_manager.is_checkpoint_requested = True

    trainer = trainer_of(tmp_path, enable_jit_checkpoint=True, given={"callbacks": [At(1, signal)]})
    trainer.train()
    assert trainer.state.global_step < 3
    again = trainer_of(tmp_path)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 3


@pytest.mark.parametrize(
    ("objectives", "weighting", "words"),
    [
        ([TaskLoss(), LogitsKL()], None, r"has 1\.projection\.layers\.0\.bias \[32\]"),
        ([TaskLoss(), HiddenStates(mapping={2: 4})], GradNorm(), r"lacks 2\.first_values \[2\]"),
    ],
)
def test_a_checkpoint_under_other_objectives_is_refused(tmp_path, objectives, weighting, words):
    trainer_of(tmp_path, max_steps=1, save_strategy="steps", save_steps=1).train()
    with pytest.raises(TrainingError, match=words):
        trainer_of(tmp_path, objectives, given={"weighting": weighting}).train(resume_from_checkpoint=True)


def test_a_path_is_verified_like_a_string(tmp_path):
    trainer_of(tmp_path, max_steps=1, save_strategy="steps", save_steps=1).train()
    checkpoint = Path(tmp_path / "checkpoint-1")
    (checkpoint / SEAL).unlink()
    with pytest.raises(TrainingError, match="no whole checkpoint"):
        trainer_of(tmp_path).train(resume_from_checkpoint=checkpoint)


def test_a_checkpoint_on_the_hub_can_be_resumed_from(tmp_path, monkeypatch):
    """It is pushed as it is at that moment."""
    pushed = tmp_path / "hub" / "last-checkpoint"
    copy = lambda self, folder: shutil.copytree(folder, pushed, dirs_exist_ok=True)  # noqa: E731
    monkeypatch.setattr(Trainer, "_push_from_checkpoint", copy)
    monkeypatch.setattr(Trainer, "_finish_current_push", lambda self: None)
    monkeypatch.setattr(Trainer, "init_hf_repo", lambda self, *args, **kwargs: None)
    saved = {"save_strategy": "steps", "save_steps": 1}
    trainer_of(tmp_path / "first", max_steps=2, push_to_hub=True, hub_strategy="checkpoint", **saved).train()
    again = trainer_of(tmp_path / "second")
    again.train(resume_from_checkpoint=str(pushed))
    assert again.state.global_step == 3
    (pushed / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(TrainingError):
        trainer_of(tmp_path / "third").train(resume_from_checkpoint=str(pushed))
