"""Models are scored where they are trained, and are then where they were."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import batch, tiny_model

from distil_nlp.build import rows
from distil_nlp.evaluation.quality import teacher_forward
from distil_nlp.signals import Needs, Signals

META = torch.device("meta")  # stands for a GPU: a device that is not the CPU


@pytest.fixture
def moved(monkeypatch):
    """Where models are sent from now on, without going there."""
    seen = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: seen.append(torch.device(device)) or self)
    return seen


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_goes_there_and_back(moved, fails):
    model = tiny_model()
    with contextlib.suppress(KeyboardInterrupt), rows._placed(model, META):
        assert moved == [META]
        if fails:
            raise KeyboardInterrupt
    assert moved == [META, torch.device("cpu")]


def test_a_model_that_is_there_or_is_spread_over_devices_stays(moved):
    with rows._placed(tiny_model(), torch.device("cpu")):
        pass
    spread = tiny_model()
    spread.hf_device_map = {"": 0}
    with rows._placed(spread, META):
        pass
    assert moved == []


def test_a_teacher_is_given_batches_there():
    class Far:
        shape, input_names = SimpleNamespace(item="example"), frozenset({"input_ids"})

        def prepare(self, needs, device):
            self.devices = [*getattr(self, "devices", []), device]

        def __call__(self, made, needs):
            assert needs == Needs(logits=True)
            assert {value.device for value in made.values()} == {META}
            return Signals(logits=torch.ones(4, 2))

    far = Far()
    with rows._placed(far, META):
        outputs = teacher_forward(far, META)({name: value.numpy() for name, value in batch("example").items()})
    np.testing.assert_array_equal(outputs["logits"], np.ones((4, 2)))
    assert far.devices == [META, torch.device("cpu")]
