"""A teacher in fewer bits against one whose weights a loop has rounded, and what it is not for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from tiny_models import batch
from torch import nn

from distil_nlp.blocks import find_blocks
from distil_nlp.errors import MissingExtraError, ModelError
from distil_nlp.evaluation.efficiency import count_parameters, weights_mb
from distil_nlp.signals import Needs
from distil_nlp.students import build_student
from distil_nlp.teachers import EnsembleTeacher, ModelTeacher, StoredTeacher, quantize
from distil_nlp.weights import is_quantized, plain_tensors

CPU = torch.device("cpu")
ALL = Needs(logits=True, hidden_states=frozenset({0, 4}), attentions=frozenset({2}))


# Dettmers et al. (2023), appendix E.
NF4 = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
        *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
        *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ]
)


@pytest.fixture(params=[("int8", "torchao"), ("nf4", "bitsandbytes")], ids=["int8", "nf4"])
def to(request: pytest.FixtureRequest) -> str:
    """To what teachers are quantized."""
    method, package = request.param
    pytest.importorskip(package, reason=f"{package}, which quantizes teachers, is not installed")
    return str(method)


def tiny_model(family: str = "bert", item: str = "example", **config: Any) -> Any:
    """Wide enough for scales of 64 weights."""
    sizes = {} if family == "gpt2" else {"hidden_size": 64, "intermediate_size": 128}
    return tiny_models.tiny_model(family, item, **(sizes | config))


def in_nf4(model: Any, quantized: Any) -> Any:
    """A model whose blocks' linear weights are the nearest of 16 numbers, times the largest of each 64 weights."""
    for module in find_blocks(model).modules.modules():
        if isinstance(module, nn.Linear):
            values = module.weight.detach().numpy().reshape(-1, 64)
            scales = np.abs(values).max(axis=1, keepdims=True)
            nearest = NF4[np.abs((values / scales)[..., None] - NF4).argmin(axis=-1)]
            module.weight.data = torch.from_numpy((nearest * scales).astype(np.float32)).view_as(module.weight)
    return model


def in_int8(model: Any, quantized: Any) -> Any:
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


@pytest.mark.parametrize(("family", "item"), [("bert", "example"), ("llama", "next_token"), ("modernbert", "token")])
def test_it_gives_what_rounded_weights_give(family: str, item: str, to: str) -> None:
    models = [tiny_model(family, item, initializer_range=0.2) for _ in range(3)]
    made, before = batch(item), weights_mb(models[0])
    quantize(models[0], to)
    {"int8": in_int8, "nf4": in_nf4}[to](models[1], models[0])
    got, expected, exact = (ask(ModelTeacher(model), made) for model in models)
    torch.testing.assert_close(got.logits, expected.logits, rtol=1e-4, atol=1e-4)
    for number in (0, 4):
        torch.testing.assert_close(got.hidden_states[number], expected.hidden_states[number], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got.attentions[2].query, expected.attentions[2].query, rtol=1e-4, atol=1e-4)
    assert 0 < (got.logits - exact.logits).norm() < {"int8": 0.05, "nf4": 0.6}[to] * exact.logits.norm()
    model = models[0]
    linear = sum(m.weight.numel() for m in find_blocks(models[2]).modules.modules() if isinstance(m, nn.Linear))
    saved = {"int8": 3.0, "nf4": 3.5}[to]  # of four bytes, but for the scales
    assert before - weights_mb(model) == pytest.approx(saved * linear / 1e6, rel=0.2)
    assert count_parameters(model) == count_parameters(models[2])


def test_only_linear_layers_in_blocks_are_changed_and_only_once(to: str) -> None:
    model = quantize(tiny_model("bert"), to)
    before = {name: tensor.detach() for name, tensor in tiny_model("bert").state_dict().items()}
    changed = {name for name, tensor in model.named_parameters() if type(tensor) is not nn.Parameter}
    assert changed == {
        name
        for name in before
        if name.startswith("bert.encoder.layer.") and name.endswith(".weight") and "Norm" not in name
    }
    for name in set(before) - changed:
        assert torch.equal(model.state_dict()[name], before[name])
    once = model.bert.encoder.layer[0].attention.self.query.weight
    assert quantize(model, to).bert.encoder.layer[0].attention.self.query.weight is once
    assert is_quantized(model)
    assert not is_quantized(tiny_model("bert"))


def test_a_model_without_linear_layers_is_refused(to: str) -> None:
    with pytest.raises(ModelError, match="made of Conv1D"):
        quantize(tiny_model("gpt2", "next_token"), to)


def test_a_student_cannot_take_over_its_layers(to: str) -> None:
    with pytest.raises(ModelError, match="quantized"):
        build_student(quantize(tiny_model("bert"), to), num_layers=2)


def test_it_can_be_stored_and_averaged(tmp_path: Path, to: str) -> None:
    prints = [
        ModelTeacher(model).fingerprint()
        for model in (
            tiny_model(),
            quantize(tiny_model(), to),
            quantize(tiny_model(), to),
            quantize(tiny_model(seed=1), to),
        )
    ]
    assert prints[1] == prints[2]
    assert len(set(prints)) == 3
    members, made = [quantize(tiny_model(seed=1), to), tiny_model(seed=2)], batch()
    ensemble, live = StoredTeacher(EnsembleTeacher(members), tmp_path), EnsembleTeacher(members)
    expected, got = (ask(teacher, made, Needs(logits=True)).logits for teacher in (live, ensemble))
    torch.testing.assert_close(got, expected)
    again = StoredTeacher(members, tmp_path)
    again.prepare(Needs(logits=True), CPU)
    assert again.num_rows == 0
    ensemble.flush()
    again.prepare(Needs(logits=True), CPU)
    assert again.num_rows == len(made["input_ids"])


@pytest.mark.parametrize(
    ("method", "module", "extra"),
    [("int8", "torchao.quantization", "torchao"), ("nf4", "bitsandbytes.nn", "bitsandbytes")],
)
def test_without_the_package(monkeypatch: pytest.MonkeyPatch, method: str, module: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, extra, None)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"distil_nlp\[{extra}\]"):
        quantize(tiny_model("bert"), method)


def test_layers_that_scales_do_not_fit_stay_as_they_are() -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes, which quantizes teachers, is not installed")
    layer = quantize(tiny_model("bert", intermediate_size=96), "nf4").bert.encoder.layer[0]
    assert is_quantized(layer.intermediate)
    assert not is_quantized(layer.output)
    with pytest.raises(ModelError, match="multiple of 64 wide"):
        quantize(tiny_model("bert", hidden_size=32, intermediate_size=48), "nf4")


def test_a_method_that_there_is_not() -> None:
    with pytest.raises(ModelError, match="Did you mean 'nf4'"):
        quantize(tiny_model("bert"), "fp4")
