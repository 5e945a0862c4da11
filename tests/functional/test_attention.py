import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distil_nlp.functional.attention_losses import _batched_mse, attention_mse
from distil_nlp.signals import SelfAttention


def naive_maps(attention, example, valid):
    """Plain loops over heads, queries and keys, in Python floats."""
    heads = attention.query.shape[1]
    groups = heads // attention.key.shape[1]
    tokens = [i for i, keep in enumerate(valid[example].tolist()) if keep]
    maps = np.zeros((heads, len(tokens), len(tokens)))
    for h in range(heads):
        for a, i in enumerate(tokens):
            scores = []
            for j in tokens:
                query, key = attention.query[example, h, i], attention.key[example, h // groups, j]
                score = sum(x * y for x, y in zip(query.tolist(), key.tolist(), strict=True)) * attention.scaling
                if attention.mask is None and attention.causal and j > i:
                    score = -math.inf
                if attention.mask is not None:
                    allowed = attention.mask[example, 0, i, j]
                    score = score + float(allowed) if attention.mask.is_floating_point() else score
                    if attention.mask.dtype == torch.bool and not allowed:
                        score = -math.inf
                scores.append(score)
            powers = [math.exp(score - max(scores)) for score in scores]
            maps[h, a] = [power / sum(powers) for power in powers]
    return maps


def naive_mse(student, teacher, valid):
    values = []
    for example in range(len(valid)):
        s, t = naive_maps(student, example, valid), naive_maps(teacher, example, valid)
        if len(s) != len(t):
            s, t = s.mean(0, keepdims=True), t.mean(0, keepdims=True)
        values.append(((s - t) ** 2).mean())
    return np.array(values)


def make(heads=4, key_heads=None, tokens=6, seed=0, mask=None, causal=False, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(3, heads, tokens, 5, generator=generator, dtype=torch.float64)
    key = torch.randn(3, key_heads or heads, tokens, 5, generator=generator, dtype=torch.float64)
    return SelfAttention(query.requires_grad_(requires_grad), key.requires_grad_(requires_grad), mask, 5**-0.5, causal)


VALID = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 0, 1]]).bool()


def window(kind):
    near = (torch.arange(6)[:, None] - torch.arange(6)[None]).abs() <= 3
    near = near.expand(3, 1, 6, 6)
    return near if kind == "boolean" else torch.where(near, 0.0, -1e9).double()


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ({}, {}),
        ({"key_heads": 2}, {}),
        ({"heads": 2}, {"heads": 4}),
        ({"causal": True}, {"causal": True}),
        ({"mask": window("boolean")}, {"mask": window("additive")}),
    ],
    ids=["plain", "grouped-query", "unequal-heads", "causal", "masks"],
)
def test_value_and_gradient_equal_naive_loops(student, teacher):
    s, t = make(seed=1, requires_grad=True, **student), make(seed=2, **teacher)
    values = attention_mse(s, t, VALID)
    np.testing.assert_allclose(values.detach().numpy(), naive_mse(s, t, VALID), rtol=1e-10)
    weights = torch.tensor([0.3, 1.7, -0.4], dtype=torch.float64)
    (values * weights).sum().backward()
    for tensor in (s.query, s.key):
        for index in [(0, 0, 0, 0), (1, 1, 2, 3), (2, 0, 3, 1), (1, 0, 4, 2)]:
            with torch.no_grad():
                original = tensor[index].item()
                sides = []
                for step in (1e-6, -1e-6):
                    tensor[index] = original + step
                    sides.append((naive_mse(s, t, VALID) * weights.numpy()).sum())
                tensor[index] = original
            assert tensor.grad[index].item() == pytest.approx((sides[0] - sides[1]) / 2e-6, abs=2e-9)


def test_without_padding_it_is_mse_loss_of_the_maps():
    s, t = make(seed=1), make(seed=2)
    maps = [torch.softmax(a.query @ a.key.transpose(-1, -2) * a.scaling, -1) for a in (s, t)]
    got = attention_mse(s, t, torch.ones(3, 6, dtype=torch.bool)).mean()
    torch.testing.assert_close(got, F.mse_loss(*maps))


@pytest.mark.parametrize("student", [{}, {"key_heads": 2}, {"heads": 2}, {"causal": True}, {"mask": window("boolean")}])
def test_the_batched_form_for_accelerators_is_the_same(student):
    results = []
    for form in (attention_mse, _batched_mse):
        s, t = make(seed=1, requires_grad=True, **student), make(seed=2, mask=window("additive"))
        values = form(s, t, VALID)
        (values * torch.tensor([0.3, 1.7, -0.4])).sum().backward()
        results.append((values.detach(), s.query.grad, s.key.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_small_gradients_survive_half_precision():
    """fp16 training multiplies the loss by a large factor, which arrives in the backward pass only."""
    s, t = make(seed=1), make(seed=2)
    half = [tensor.half().requires_grad_() for tensor in (s.query, s.key)]
    (attention_mse(SelfAttention(*half, None, s.scaling), t, VALID) * 1e-5).sum().mul(65536.0).backward()
    full = [tensor.detach().double().requires_grad_() for tensor in half]
    (attention_mse(SelfAttention(*full, None, s.scaling), t, VALID) * 1e-5).sum().mul(65536.0).backward()
    for one, other in zip(half, full, strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=5e-3, atol=1e-6)


def test_gradient_is_autograds():
    s, t = make(seed=1, requires_grad=True), make(seed=2)
    assert torch.autograd.gradcheck(
        lambda q, k: attention_mse(SelfAttention(q, k, None, s.scaling), t, VALID), (s.query, s.key)
    )


def test_padding_does_not_matter():
    s, t = make(seed=1, requires_grad=True), make(seed=2)
    attention_mse(s, t, VALID).sum().backward()
    assert (s.query.grad[1, :, 3:] == 0).all()
    assert (s.key.grad[2, :, 1] == 0).all()
    with torch.no_grad():
        before = attention_mse(s, t, VALID)
        s.query[1, :, 3:] = math.nan
        s.key[1, :, 3:] = 1e30
        torch.testing.assert_close(attention_mse(s, t, VALID), before)


def test_an_example_of_padding_alone_is_zero():
    s, t = make(seed=1, requires_grad=True), make(seed=2)
    valid = VALID.clone()
    valid[0] = False
    values = attention_mse(s, t, valid)
    values.sum().backward()
    assert values[0] == 0
    assert torch.isfinite(s.query.grad).all()
