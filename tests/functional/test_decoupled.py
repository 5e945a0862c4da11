import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distil_nlp.functional.decoupled import decoupled_kl


def case(items=6, classes=7, scale=2.0):
    generator = torch.Generator().manual_seed(0)
    s, t = (torch.randn(items, classes, generator=generator, dtype=torch.float64) * scale for _ in range(2))
    return s, t, torch.randint(0, classes, (items,), generator=generator)


def naive(s, t, target, alpha, beta, temperature):
    """Definitions of the paper, one probability at a time."""
    values = []
    for ours, theirs, y in zip(s.tolist(), t.tolist(), target.tolist(), strict=True):
        parts = []
        for row in (theirs, ours):
            powers = [math.exp((z - max(row)) / temperature) for z in row]
            p = [power / sum(powers) for power in powers]
            rest = sum(p) - p[y]
            parts.append(([p[y], rest], [q / rest for v, q in enumerate(p) if v != y]))
        tckd, nckd = (
            sum(a * math.log(a / b) for a, b in zip(parts[0][part], parts[1][part], strict=True)) for part in (0, 1)
        )
        values.append(temperature**2 * (alpha * tckd + beta * nckd))
    return np.array(values)


def authors(s, t, target, alpha, beta, temperature):
    """The algorithm of the released code: softmax, masks, and 1000 off the target's logit; mean over the batch."""
    is_target = F.one_hot(target, s.shape[1]).to(s.dtype)

    def split(z):
        p = torch.softmax(z / temperature, dim=1)
        return torch.stack([(p * is_target).sum(1), (p * (1 - is_target)).sum(1)], dim=1)

    tckd = F.kl_div(split(s).log(), split(t), reduction="batchmean")
    without = [z / temperature - 1000.0 * is_target for z in (s, t)]
    nckd = F.kl_div(torch.log_softmax(without[0], dim=1), torch.softmax(without[1], dim=1), reduction="batchmean")
    return (alpha * tckd + beta * nckd) * temperature**2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (0.0, 1.0), (2.0, 0.0)])
def test_equals_the_papers_definitions_in_float64(temperature, alpha, beta):
    s, t, target = case()
    got = decoupled_kl(s, t, target, alpha=alpha, beta=beta, temperature=temperature)
    np.testing.assert_allclose(got.numpy(), naive(s, t, target, alpha, beta, temperature), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_its_mean_and_gradient_are_those_of_the_authors_code(temperature):
    s, t, target = case()
    results = []
    for function in (decoupled_kl, authors):
        x = s.clone().requires_grad_()
        options = {"alpha": 1.0, "beta": 8.0, "temperature": temperature}
        value = function(x, t, target, **options).mean()
        value.backward()
        results.append((value.detach(), x.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


def test_with_the_weights_of_the_teachers_doubt_it_is_kl():
    """KL = TCKD + (1 - p_t(y)) NCKD."""
    s, t, target = case()
    p = torch.softmax(t, dim=1)
    doubt = 1 - p[torch.arange(len(p)), target]
    against = decoupled_kl(s, t, target, alpha=1.0, beta=0.0, temperature=1.0)
    among = decoupled_kl(s, t, target, alpha=0.0, beta=1.0, temperature=1.0)
    kl = F.kl_div(torch.log_softmax(s, dim=1), p, reduction="none").sum(1)
    torch.testing.assert_close(against + doubt * among, kl, rtol=1e-10, atol=1e-12)


def test_defaults_are_the_authors():
    s, t, target = case()
    expected = naive(s, t, target, alpha=1.0, beta=8.0, temperature=4.0)
    np.testing.assert_allclose(decoupled_kl(s, t, target).numpy(), expected, rtol=1e-10)


def test_leading_dimensions_are_kept():
    s, t, target = case()
    got = decoupled_kl(s.view(2, 3, 7), t.view(2, 3, 7), target.view(2, 3))
    torch.testing.assert_close(got.flatten(), decoupled_kl(s, t, target))
    assert decoupled_kl(s[:0], t[:0], target[:0]).shape == (0,)


def test_gradients_are_those_of_finite_differences():
    s, t, target = case(items=2, classes=4, scale=1.0)
    assert torch.autograd.gradcheck(lambda x: decoupled_kl(x, t, target), s.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_certain_predictions_give_no_nan(dtype):
    """Where a target has all the mass, the others are still told apart."""
    t = torch.tensor([[1e4, 0.0, 3.0], [-1e4, 1e4, -1e4], [0.0, 0.0, 0.0]]).to(dtype)
    s = torch.tensor([[-1e4, 1.0, 2.0], [1e4, 1e4, -1e4], [1e4, 0.0, 0.0]]).to(dtype).requires_grad_()
    got = decoupled_kl(s, t, torch.tensor([0, 1, 2]), temperature=1.0)
    got.sum().backward()
    assert got.dtype == torch.float32
    assert torch.isfinite(got).all()
    assert torch.isfinite(s.grad).all()
    sure = decoupled_kl(t[:1].float() + torch.tensor([0.0, 1.0, 0.0]), t[:1], torch.tensor([0]), temperature=1.0)
    assert sure > 0.1


def test_classes_that_both_sides_rule_out_might_as_well_be_missing():
    s, t, target = case()
    wide = [F.pad(x, (0, 2), value=-math.inf).requires_grad_() for x in (s, t)]
    got = decoupled_kl(wide[0], wide[1].detach(), target)
    got.sum().backward()
    torch.testing.assert_close(got.detach(), decoupled_kl(s, t, target))
    assert torch.isfinite(wide[0].grad).all()


@pytest.mark.parametrize("classes", [1, 2])
def test_with_no_classes_to_weigh_among_the_others_the_second_part_is_zero(classes):
    s, t, _ = case(classes=classes)
    s.requires_grad_()
    target = torch.zeros(len(s), dtype=torch.long)
    got = decoupled_kl(s, t, target, alpha=0.0, beta=5.0)
    got.sum().backward()
    assert (got == 0).all()
    assert (s.grad == 0).all()
