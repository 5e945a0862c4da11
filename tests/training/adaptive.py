"""A trainer whose loss changes while it trains, for tests."""

import torch
from test_trainer import NO_DROPOUT, make_trainer
from tiny_models import tiny_model


def adaptive_trainer(folder, *, item="example", student=None, **arguments):
    """Seeded, and without anything random but what the caller's student has."""
    torch.manual_seed(0)
    return make_trainer(
        folder,
        item=item,
        student=student or tiny_model(item=item, seed=1, num_hidden_layers=2, initializer_range=0.2, **NO_DROPOUT),
        teacher=tiny_model(item=item, seed=2, num_hidden_layers=3, initializer_range=0.2),
        **{"max_steps": 3, **arguments},
    )


def everything(trainer):
    """All that training has changed."""
    return {**trainer.model.state_dict(), **{f"o.{k}": v for k, v in trainer._added.state_dict().items()}}


def logs_of(trainer):
    return [log for log in trainer.state.log_history if "loss" in log]
