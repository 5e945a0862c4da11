"""How often a device would have to be waited for: where tokens stand is found once a batch, not once a layer."""

import pytest
import torch
from tiny_objectives import make, models, signals
from torch.utils._python_dispatch import TorchDispatchMode

from distil_nlp.objectives import Embeddings, HiddenStates

WAITS = ("nonzero", "_local_scalar_dense", "masked_select", "index.Tensor")  # index: by a boolean, that is


class Waits(TorchDispatchMode):
    """Counts what has to know a tensor's content."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        by_mask = name != "aten.index.Tensor" or any(i is not None and i.dtype == torch.bool for i in args[1])
        if by_mask and any(f"aten.{wait}" in name for wait in WAITS):
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


def waits(objective, item, made):
    shown = signals(objective, *models(item), made)
    with Waits() as counted:
        objective.values(*shown, made)
    return len(counted.seen)


@pytest.mark.parametrize("lengths", [(12, 7, 9, 3), (12, 12, 12, 12)])
def test_tokens_are_found_once(lengths):
    made = make("example", lengths=lengths)
    assert waits(HiddenStates(), "example", made) == waits(Embeddings(), "example", made) == 1


@pytest.mark.parametrize("lengths", [(12, 7, 9, 3), (12, 12, 12, 12)])
def test_what_is_picked_is_what_a_mask_picks(lengths):
    valid = make("example", lengths=lengths)["attention_mask"].bool()
    states = torch.randn(4, 12, 5)
    for objective in (HiddenStates(), Embeddings()):
        assert torch.equal(objective.pick(states, valid), states[valid])
        assert torch.equal(objective.picker(valid)(states), states[valid])
