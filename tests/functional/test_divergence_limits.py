"""Where divergences meet each other, and published formulas."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distil_nlp.functional.divergence import (
    coarse_log_probabilities,
    generalized_jsd,
    skew_kl_divergence,
    topk_kl_divergence,
)


def pair(*shape, scale=3.0):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(*shape, generator=generator, dtype=torch.float64) * scale for _ in range(2))


def kl(first, second):
    """KL divergence of two distributions given as logits, by torch."""
    return F.kl_div(torch.log_softmax(second, -1), torch.softmax(first, -1), reduction="none").sum(-1)


def merged_kl(s, t, k):
    """KL over the teacher's k likeliest classes and one for the sum of all others, row by row."""
    values = []
    for ours, theirs in zip(torch.softmax(s, -1).numpy(), torch.softmax(t, -1).numpy(), strict=True):
        order = np.argsort(-theirs)
        q, p = (np.append(x[order[:k]], x[order[k:]].sum()) for x in (ours, theirs))
        values.append((p * np.log(p / q)).sum())
    return torch.tensor(np.array(values))


def same(got, expected, rtol=1e-10):
    torch.testing.assert_close(got, expected, rtol=rtol, atol=1e-13)


def trl_generalized_jsd(student, teacher, beta):
    """The formula of TRL's GKD trainer, per position, in its own steps."""
    log_s, log_t = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
    log_m = torch.log(beta * log_t.exp() + (1 - beta) * log_s.exp())
    teacher_part = F.kl_div(log_m, log_t, reduction="none", log_target=True)
    student_part = F.kl_div(log_m, log_s, reduction="none", log_target=True)
    return (beta * teacher_part + (1 - beta) * student_part).sum(-1)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_jsd_is_trls_times_temperature_squared(beta, temperature):
    s, t = pair(6, 11)
    expected = temperature**2 * trl_generalized_jsd(s / temperature, t / temperature, beta)
    same(generalized_jsd(s, t, beta=beta, temperature=temperature), expected)


def test_jsd_is_symmetric_and_bounded_at_one_half():
    s, t = pair(50, 8, scale=20.0)
    same(generalized_jsd(s, t), generalized_jsd(t, s))
    assert (generalized_jsd(s, t) <= math.log(2)).all()
    assert (generalized_jsd(s, t, beta=0.2) - generalized_jsd(t, s, beta=0.2)).abs().max() > 1e-2


def test_jsd_tends_to_beta_times_forward_kl_and_to_one_minus_beta_times_reverse_kl():
    s, t = pair(5, 7, scale=1.0)
    small = 1e-6
    same(generalized_jsd(s, t, beta=small) / small, kl(t, s), rtol=1e-4)
    same(generalized_jsd(s, t, beta=1 - small) / small, kl(s, t), rtol=1e-4)


def test_skew_kl_without_skew_is_kl_and_with_more_of_it_is_smaller():
    s, t = pair(5, 7)
    same(skew_kl_divergence(s, t, alpha=0.0), kl(t, s))
    same(skew_kl_divergence(s, t, alpha=0.0, reverse=True), kl(s, t))
    same(skew_kl_divergence(s, t, alpha=1e-12), kl(t, s), rtol=1e-6)
    values = torch.stack([skew_kl_divergence(s, t, alpha=alpha) for alpha in (0.0, 0.1, 0.5, 0.9)])
    assert (values.diff(dim=0) < 0).all()


@pytest.mark.parametrize("k", [9, 100])
def test_all_classes_kept_is_kl(k):
    s, t = pair(6, 9)
    same(topk_kl_divergence(s, t, k=k, temperature=2.0), 4 * kl(t / 2, s / 2))


@pytest.mark.parametrize("k", [1, 2, 8])
def test_topk_is_the_kl_of_merged_classes_and_grows_with_k(k):
    s, t = pair(6, 9)
    got = topk_kl_divergence(s, t, k=k)
    same(got, merged_kl(s, t, k))
    assert (got <= topk_kl_divergence(s, t, k=k + 1) + 1e-12).all()
    assert (got <= kl(t, s) + 1e-12).all()


def test_a_tail_too_small_for_a_difference_from_one_still_counts():
    t = torch.zeros(1, 6)
    t[0, 0] = 40.0  # the rest: 5 exp(-40), far below what 1 - p can show
    s = torch.zeros(1, 6, requires_grad=True)
    coarse = coarse_log_probabilities(t, torch.tensor([[0]]))
    assert coarse[0, 1].item() == pytest.approx(math.log(5) - 40, rel=1e-6)
    topk_kl_divergence(s, t, k=1).sum().backward()
    np.testing.assert_allclose(s.grad.numpy(), [[-5 / 6] + [1 / 6] * 5], rtol=1e-5)
