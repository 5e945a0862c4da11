"""A teacher in 8-bit integers against one whose weights a loop has rounded, and what it is not for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import batch, tiny_model
from torch import nn

from distil_nlp.blocks import find_blocks
from distil_nlp.errors import MissingExtraError, ModelError
from distil_nlp.evaluation.efficiency import weights_mb
from distil_nlp.signals import Needs
from distil_nlp.students import build_student
from distil_nlp.teachers import EnsembleTeacher, ModelTeacher, StoredTeacher, quantize
from distil_nlp.teachers.quantized import is_quantized, plain_tensors

CPU = torch.device("cpu")
ALL = Needs(logits=True, hidden_states=frozenset({0, 4}), attentions=frozenset({2}))


@pytest.fixture
def _torchao() -> None:
    pytest.importorskip("torchao", reason="torchao, which quantizes teachers, is not installed")


def rounded(model: Any, quantized: Any) -> Any:
    """A model whose blocks' linear weights are those of a quantized one, in floating point."""
    parts = dict(find_blocks(quantized).modules.named_modules())
    for name, module in find_blocks(model).modules.named_modules():
        if isinstance(module, nn.Linear):
            integers, scales, _ = (tensor.numpy() for tensor in plain_tensors(parts[name].weight))
            exact = module.weight.detach().numpy().astype(np.float64)
            expected = np.array([np.abs(row).max() / 127.5 for row in exact])  # half of what 8 bits span
            np.testing.assert_allclose(scales[:, 0], expected, rtol=1e-6)
            nearest = np.clip(np.rint(exact / expected[:, None]), -128, 127)
            assert (integers != nearest).sum(axis=1).max() <= 1  # a row's largest value is halfway between two
            assert np.abs(integers - nearest).max() <= 1
            module.weight.data = torch.from_numpy(integers * scales)
    return model


def ask(teacher: Any, made: Any, needs: Needs = ALL) -> Any:
    teacher.prepare(needs, CPU)
    return teacher(made, needs)


@pytest.mark.usefixtures("_torchao")
@pytest.mark.parametrize(("family", "item"), [("bert", "example"), ("llama", "next_token"), ("modernbert", "token")])
def test_it_gives_what_rounded_weights_give(family: str, item: str) -> None:
    models = [tiny_model(family, item, initializer_range=0.2) for _ in range(3)]
    made, before = batch(item), weights_mb(models[0])
    quantize(models[0])
    rounded(models[1], models[0])
    got, expected, exact = (ask(ModelTeacher(model), made) for model in models)
    torch.testing.assert_close(got.logits, expected.logits, rtol=1e-4, atol=1e-4)
    for number in (0, 4):
        torch.testing.assert_close(got.hidden_states[number], expected.hidden_states[number], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got.attentions[2].query, expected.attentions[2].query, rtol=1e-4, atol=1e-4)
    assert 0 < (got.logits - exact.logits).norm() < 0.05 * exact.logits.norm()
    model = models[0]
    linear = sum(m.weight.numel() for m in find_blocks(model).modules.modules() if isinstance(m, nn.Linear))
    assert before - weights_mb(model) == pytest.approx(
        3 * linear / 1e6, rel=0.2
    )  # one byte of four is left, and scales


@pytest.mark.usefixtures("_torchao")
def test_only_linear_layers_in_blocks_are_changed_and_only_once() -> None:
    model = quantize(tiny_model("bert"))
    before = {name: tensor.detach() for name, tensor in tiny_model("bert").state_dict().items()}
    changed = {name for name, tensor in model.state_dict().items() if type(tensor) is not torch.Tensor}
    assert changed == {
        name
        for name in before
        if name.startswith("bert.encoder.layer.") and name.endswith(".weight") and "Norm" not in name
    }
    for name in set(before) - changed:
        assert torch.equal(model.state_dict()[name], before[name])
    once = model.bert.encoder.layer[0].attention.self.query.weight
    assert quantize(model).bert.encoder.layer[0].attention.self.query.weight is once
    assert is_quantized(model)
    assert not is_quantized(tiny_model("bert"))


@pytest.mark.usefixtures("_torchao")
def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(ModelError, match="made of Conv1D"):
        quantize(tiny_model("gpt2", "next_token"))


@pytest.mark.usefixtures("_torchao")
def test_a_student_cannot_take_over_its_layers() -> None:
    with pytest.raises(ModelError, match="quantized"):
        build_student(quantize(tiny_model("bert")), num_layers=2)


@pytest.mark.usefixtures("_torchao")
def test_it_can_be_stored_and_averaged(tmp_path: Path) -> None:
    prints = [
        ModelTeacher(model).fingerprint()
        for model in (tiny_model(), quantize(tiny_model()), quantize(tiny_model()), quantize(tiny_model(seed=1)))
    ]
    assert prints[1] == prints[2]
    assert len(set(prints)) == 3
    members, made = [quantize(tiny_model(seed=1)), tiny_model(seed=2)], batch()
    ensemble, live = StoredTeacher(EnsembleTeacher(members), tmp_path), EnsembleTeacher(members)
    expected, got = (ask(teacher, made, Needs(logits=True)).logits for teacher in (live, ensemble))
    torch.testing.assert_close(got, expected)
    again = StoredTeacher(members, tmp_path)
    again.prepare(Needs(logits=True), CPU)
    assert again.num_rows == 0
    ensemble.flush()
    again.prepare(Needs(logits=True), CPU)
    assert again.num_rows == len(made["input_ids"])


def test_without_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(MissingExtraError, match=r"distil_nlp\[torchao\]"):
        quantize(tiny_model("bert"))
