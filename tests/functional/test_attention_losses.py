import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distil_nlp.functional import attention_blocks
from distil_nlp.functional.attention_losses import _batched_kl, _batched_score_mse, attention_kl, attention_score_mse
from distil_nlp.signals import SelfAttention

TOKENS = 6
# right padding, left padding, none, a gap
VALID = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1]]).bool()
WEIGHTS = torch.tensor([0.3, 1.7, -0.4, 0.9], dtype=torch.float64)
KL = (attention_kl, _batched_kl)
MSE = (attention_score_mse, _batched_score_mse)


def make(heads=4, key_heads=None, seed=0, mask=None, causal=False, size=1.0):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(4, heads, TOKENS, 5, generator=generator, dtype=torch.float64) * size
    key = torch.randn(4, key_heads or heads, TOKENS, 5, generator=generator, dtype=torch.float64) * size
    return SelfAttention(query.requires_grad_(), key.requires_grad_(), mask, 5**-0.5, causal)


def window(kind, width=3):
    near = (torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)[None]).abs() <= width
    near = near.expand(4, 1, TOKENS, TOKENS)
    return near if kind == "boolean" else torch.where(near, 0.0, torch.finfo(torch.float32).min).double()


def bias():
    return -torch.arange(TOKENS).double().sub(torch.arange(TOKENS)[:, None]).abs()[None, None] / 3


def entry(attention, example, head, i, j):
    """One score in plain Python; None where the entry is masked."""
    groups = attention.query.shape[1] // attention.key.shape[1]
    query, key = attention.query[example, head, i].tolist(), attention.key[example, head // groups, j].tolist()
    score = sum(a * b for a, b in zip(query, key, strict=True)) * attention.scaling
    if attention.mask is None:
        return None if attention.causal and j > i else score
    mask = attention.mask[example if len(attention.mask) > 1 else 0, 0, i, j].item()
    if attention.mask.dtype == torch.bool:
        return score if mask else None
    return None if mask < -1e4 else score + mask


def softmax(row):
    shown = [s for s in row if s is not None]
    powers = [0.0 if s is None else math.exp(s - max(shown)) for s in row]
    return [p / sum(powers) for p in powers]


def naive(kind, student, teacher, valid):
    """Loops over examples, heads, queries and keys."""
    values = []
    for example in range(len(valid)):
        tokens = [i for i, keep in enumerate(valid[example].tolist()) if keep]
        total, count = 0.0, 0
        sides = student, teacher
        same = student.query.shape[1] == teacher.query.shape[1]
        for i in tokens:
            rows = [
                [[entry(a, example, h, i, j) for j in tokens] for h in range(a.query.shape[1])] for a in sides
            ]  # [side][head][key]
            shown = [all(rows[side][0][k] is not None for side in (0, 1)) for k in range(len(tokens))]
            rows = [[[s if keep else None for s, keep in zip(r, shown, strict=True)] for r in side] for side in rows]
            if kind == "kl":
                rows = [[softmax(row) for row in side] for side in rows]
            if not same:
                rows = [np.mean([[s or 0.0 for s in row] for row in side], axis=0)[None].tolist() for side in rows]
            for ours, theirs in zip(*rows, strict=True):
                if kind == "kl":
                    total += sum(t * math.log(t / s) for s, t in zip(ours, theirs, strict=True) if t > 0)
                    count += 1
                else:
                    total += sum((s - t) ** 2 for s, t, keep in zip(ours, theirs, shown, strict=True) if keep)
                    count += sum(shown)
        values.append(total / max(count, 1))
    return np.array(values)


CASES = {
    "plain": ({}, {}),
    "grouped-query": ({"key_heads": 2}, {"key_heads": 1}),
    "unequal-heads": ({"heads": 2}, {"heads": 4}),
    "unequal-heads-causal": ({"heads": 4, "key_heads": 2, "causal": True}, {"heads": 2, "causal": True}),
    "causal": ({"causal": True}, {"causal": True}),
    "masks": ({"mask": window("boolean")}, {"mask": window("additive")}),
    "masks-that-differ": ({"mask": window("additive", 2)}, {"causal": True}),
    "a-bias": ({"mask": bias()}, {}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("kind", "form"), [("kl", f) for f in KL] + [("mse", f) for f in MSE])
def test_value_and_gradient_equal_naive_loops(case, kind, form):
    s, t = make(seed=1, **CASES[case][0]), make(seed=2, **CASES[case][1])
    values = form(s, t, VALID)
    np.testing.assert_allclose(values.detach().numpy(), naive(kind, s, t, VALID), rtol=1e-10, atol=1e-14)
    (values * WEIGHTS).sum().backward()
    assert t.query.grad is None
    for tensor in (s.query, s.key):
        for index in [(0, 0, 0, 0), (1, 1, 3, 3), (2, 0, 5, 1), (3, 0, 4, 2)]:
            if index[1] >= tensor.shape[1]:
                continue
            with torch.no_grad():
                original, sides = tensor[index].item(), []
                for step in (1e-6, -1e-6):
                    tensor[index] = original + step
                    sides.append((naive(kind, s, t, VALID) * WEIGHTS.numpy()).sum())
                tensor[index] = original
            assert tensor.grad[index].item() == pytest.approx((sides[0] - sides[1]) / 2e-6, abs=2e-8)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", [attention_kl, attention_score_mse])
def test_gradcheck(case, form):
    s, t = make(seed=1, **CASES[case][0]), make(seed=2, **CASES[case][1])
    assert torch.autograd.gradcheck(
        lambda q, k: form(SelfAttention(q, k, s.mask, s.scaling, s.causal), t, VALID), (s.query, s.key)
    )


@pytest.mark.parametrize("causal", [False, True])
def test_gradcheck_of_relations_of_vectors_to_themselves(causal):
    s, t = make(seed=1), make(seed=2)
    relation = SelfAttention(t.query, t.query, None, 0.4, causal)
    assert torch.autograd.gradcheck(
        lambda q: attention_kl(SelfAttention(q, q, None, 0.4, causal), relation, VALID), (s.query,)
    )


@pytest.mark.parametrize("form", [*KL, *MSE])
@pytest.mark.parametrize("heads", [2, 4])
def test_the_sides_may_differ_in_precision(form, heads):
    s, t = make(seed=1), make(heads=heads, seed=2)
    exact = form(s, t, VALID)
    for ours, theirs in ((torch.float32, torch.float64), (torch.float64, torch.float32)):
        leaves = [x.detach().to(ours).requires_grad_() for x in (s.query, s.key)]
        frozen = [x.detach().to(theirs) for x in (t.query, t.key)]
        values = form(SelfAttention(*leaves, None, s.scaling), SelfAttention(*frozen, None, t.scaling), VALID)
        values.sum().backward()
        assert values.dtype == ours
        torch.testing.assert_close(values.double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", [attention_kl, attention_score_mse])
def test_without_gradients_the_value_is_the_same(form):
    s, t = make(seed=1, key_heads=2), make(seed=2)
    frozen = SelfAttention(s.query.detach(), s.key.detach(), None, s.scaling)
    assert torch.equal(form(frozen, t, VALID), form(s, t, VALID))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", [attention_kl, attention_score_mse])
def test_the_size_of_blocks_does_not_matter(case, form, monkeypatch):
    results = []
    for block in (1 << 20, 4 * TOKENS * 2):
        monkeypatch.setattr(attention_blocks, "BLOCK", block)
        s, t = make(seed=1, **CASES[case][0]), make(seed=2, **CASES[case][1])
        values = form(s, t, VALID)
        (values * WEIGHTS).sum().backward()
        results.append((values.detach(), s.query.grad, s.key.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("form", KL)
def test_without_padding_it_is_kl_div_of_the_maps(form):
    s, t = make(seed=1), make(seed=2)
    logs = [torch.log_softmax(a.query @ a.key.transpose(-1, -2) * a.scaling, -1) for a in (s, t)]
    twin = F.kl_div(*logs, reduction="none", log_target=True).sum(-1).mean()
    torch.testing.assert_close(form(s, t, torch.ones(4, TOKENS, dtype=torch.bool)).mean(), twin)


@pytest.mark.parametrize("form", KL)
def test_sharp_maps_stay_exact(form):
    s, t = make(seed=1, size=30.0), make(seed=2, size=30.0)
    np.testing.assert_allclose(
        form(s, t, VALID).detach().numpy(), [naive_from_logs(s, t, row) for row in range(4)], rtol=1e-10
    )


def naive_from_logs(student, teacher, row):
    keep = VALID[row]
    logs = [
        torch.log_softmax((a.query[row] @ a.key[row].transpose(-1, -2) * a.scaling)[:, keep][:, :, keep], -1)
        for a in (student, teacher)
    ]
    return (logs[1].exp() * (logs[1] - logs[0])).sum(-1).mean().item()


@pytest.mark.parametrize("form", [*KL, *MSE])
@pytest.mark.parametrize("case", ["plain", "causal", "grouped-query"])
def test_equal_sides_give_exactly_zero(form, case):
    s, t = make(seed=1, **CASES[case][0]), make(seed=1, **CASES[case][0])
    values = form(s, t, VALID)
    values.sum().backward()
    assert (values == 0).all()
    assert s.query.grad.abs().max() < 1e-16


@pytest.mark.parametrize("form", [*KL, *MSE])
def test_an_example_of_padding_alone_is_zero(form):
    s, t = make(seed=1, key_heads=2), make(seed=2)
    valid = VALID.clone()
    valid[0] = False
    values = form(s, t, valid)
    values.sum().backward()
    assert values[0] == 0
    assert torch.isfinite(s.query.grad).all()
    assert (s.query.grad[0] == 0).all()


@pytest.mark.parametrize("form", [attention_kl, attention_score_mse])
def test_what_stands_in_padding_does_not_matter(form):
    s, t = make(seed=1), make(seed=2)
    with torch.no_grad():
        before = form(s, t, VALID)
        s.query[1, :, :2], s.key[1, :, :2], t.key[1, :, :2] = math.nan, 1e30, math.inf
        torch.testing.assert_close(form(s, t, VALID), before, rtol=0, atol=0)


def test_one_token_has_nothing_to_diverge_on():
    s, t = make(seed=1), make(seed=2)
    values = attention_kl(s, t, torch.eye(4, TOKENS).bool())
    values.sum().backward()
    assert values.abs().max() < 1e-15
    assert s.query.grad.abs().max() == 0


@pytest.mark.parametrize("form", KL)
@pytest.mark.parametrize("heads", [2, 4])
def test_a_teachers_finished_maps_serve_as_well(form, heads):
    s, t = make(seed=1), make(heads=heads, seed=2)
    mask = (VALID[:, None, None] & torch.ones(1, 1, TOKENS, 1).bool()).double().log()
    maps = torch.softmax(t.query @ t.key.transpose(-1, -2) * t.scaling + mask, -1)
    torch.testing.assert_close(form(s, SelfAttention(probabilities=maps), VALID), form(s, t, VALID))


def test_a_students_finished_maps_are_compared_where_they_were_not_dropped():
    s, t = make(seed=1), make(seed=2)
    maps = torch.softmax(s.query @ s.key.transpose(-1, -2) * s.scaling, -1).detach()
    maps[:, :, :, 3] = 0.0
    maps.requires_grad_()
    values = attention_kl(SelfAttention(probabilities=maps), t, VALID)
    without = SelfAttention(s.query, s.key, torch.arange(TOKENS).ne(3).expand(4, 1, TOKENS, TOKENS), s.scaling)
    np.testing.assert_allclose(values.detach().numpy(), naive("kl", without, t, VALID), rtol=1e-10)
    values.sum().backward()
    assert torch.isfinite(maps.grad).all()
    assert (maps.grad[..., 3] == 0).all()


@pytest.mark.parametrize("form", [*KL, *MSE])
def test_bfloat16_gives_finite_float32(form):
    s, t = make(seed=1, causal=True), make(seed=2)
    half = [tensor.detach().bfloat16().requires_grad_() for tensor in (s.query, s.key)]
    values = form(
        SelfAttention(*half, None, s.scaling, True), SelfAttention(t.query.bfloat16(), t.key.bfloat16()), VALID
    )
    values.sum().backward()
    assert values.dtype == torch.float32
    assert torch.isfinite(values).all()
    assert all(torch.isfinite(tensor.grad).all() and tensor.grad.dtype == torch.bfloat16 for tensor in half)


@pytest.mark.parametrize("form", [attention_kl, attention_score_mse])
def test_small_gradients_survive_half_precision(form):
    """fp16 training multiplies the loss by a large factor, which arrives in the backward pass only."""
    s, t = make(seed=1), make(seed=2)
    grads = []
    for tensors in (
        [x.detach().half() for x in (s.query, s.key)],
        [x.detach().half().double() for x in (s.query, s.key)],
    ):
        leaves = [x.requires_grad_() for x in tensors]
        (form(SelfAttention(*leaves, None, s.scaling), t, VALID) * 1e-6).sum().mul(65536.0).backward()
        grads.append(leaves)
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=5e-3, atol=1e-6)
