import numpy as np
import pytest
import torch

from distil_nlp.functional.correlation import pearson_distance, relation_distance


def pair(*shape, scale=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(*shape, generator=generator, dtype=dtype) * scale for _ in range(2))


def naive(s, t, beta, gamma, temperature):
    """One correlation at a time, by numpy; the mean over items."""
    ours, theirs = (torch.softmax(x / temperature, dim=1).numpy() for x in (s, t))
    inter = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(ours, theirs, strict=True)]
    intra = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(ours.T, theirs.T, strict=True)]
    return temperature**2 * (beta * np.array(inter) + gamma * np.mean(intra))


def authors(s, t, beta, gamma, temperature):
    """The algorithm of the released code, without the constant in its denominator."""

    def related(a, b):
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        return 1 - torch.nn.functional.cosine_similarity(a, b, dim=1, eps=0).mean()

    ours, theirs = ((x / temperature).softmax(dim=1) for x in (s, t))
    return temperature**2 * (beta * related(ours, theirs) + gamma * related(ours.T, theirs.T))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_is_one_minus_numpys_correlation(dim):
    s, t = pair(5, 8)
    rows = (x.numpy() if dim else x.numpy().T for x in (s, t))
    expected = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(*rows, strict=True)]
    np.testing.assert_allclose(pearson_distance(s, t, dim=dim).numpy(), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("beta", "gamma", "temperature"), [(1.0, 1.0, 1.0), (2.0, 0.0, 4.0), (0.0, 3.0, 0.5)])
def test_relations_equal_naive_loops(beta, gamma, temperature):
    s, t = pair(6, 5)
    got = relation_distance(s, t, beta=beta, gamma=gamma, temperature=temperature)
    np.testing.assert_allclose(got.numpy(), naive(s, t, beta, gamma, temperature), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_mean_over_items_and_gradient_are_those_of_the_authors_code(temperature):
    s, t = pair(6, 5)
    results = []
    for function in (relation_distance, authors):
        x = s.clone().requires_grad_()
        value = function(x, t, beta=2.0, gamma=3.0, temperature=temperature).mean()
        value.backward()
        results.append((value.detach(), x.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-12)


def test_scale_and_mean_do_not_matter():
    s, t = pair(3, 20)
    expected = pearson_distance(s, t)
    torch.testing.assert_close(pearson_distance(7 * s + 5, t / 3 - 1), expected)
    torch.testing.assert_close(pearson_distance(s, -t), 2 - expected)
    np.testing.assert_allclose(pearson_distance(s, 2 * s + 1).numpy(), 0, atol=1e-12)


def test_a_constant_teacher_has_nothing_to_copy_and_a_constant_student_is_uncorrelated():
    row = torch.tensor([[0.1] * 7], dtype=torch.float32)  # its mean is not exactly 0.1
    other = torch.randn(1, 7)
    ours = other.clone().requires_grad_()
    assert pearson_distance(ours, row).item() == 0
    constant = row.clone().requires_grad_()
    (pearson_distance(constant, other).sum() + pearson_distance(ours, row).sum()).backward()
    assert pearson_distance(constant, other).item() == 1
    assert (constant.grad == 0).all()
    assert (ours.grad == 0).all()


def test_small_probabilities_are_correlated_as_large_ones_are():
    s, t = pair(4, 9, dtype=torch.float32)
    expected = pearson_distance(s.double(), t.double())
    for scale in (1e-6, 1e-12):  # squares of the latter are 1e-24, and products of norms far below 1e-8
        torch.testing.assert_close(pearson_distance(s * scale, t * scale).double(), expected, rtol=1e-5, atol=1e-6)


def test_a_single_item_has_no_relation_to_others():
    s, t = pair(1, 5)
    s.requires_grad_()
    got = relation_distance(s, t, beta=0.0, gamma=1.0)
    got.sum().backward()
    assert got.item() == 0
    assert (s.grad == 0).all()


def test_no_items_give_no_values():
    s, t = pair(0, 5)
    s.requires_grad_()
    got = relation_distance(s, t)
    got.sum().backward()
    assert got.shape == (0,)


def test_gradients_are_those_of_finite_differences():
    s, t = pair(3, 4, scale=1.0)
    assert torch.autograd.gradcheck(lambda x: relation_distance(x, t, temperature=2.0), s.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_certain_predictions_give_no_nan(dtype):
    t = torch.tensor([[1e4, 0.0, 3.0], [-1e4, 1e4, -1e4], [1e4, 0.0, 0.0]]).to(dtype)
    s = torch.tensor([[-1e4, 1e4, 2.0], [1e4, 1e4, -1e4], [0.0, 0.0, 0.0]]).to(dtype).requires_grad_()
    got = relation_distance(s, t)
    got.sum().backward()
    assert got.dtype == torch.float32
    assert torch.isfinite(got).all()
    assert torch.isfinite(s.grad).all()


def test_classes_that_both_sides_rule_out_change_the_intra_class_mean_alone():
    s, t = pair(6, 5)
    wide = [torch.cat([x, torch.full((6, 5), -torch.inf, dtype=x.dtype)], dim=1) for x in (s, t)]
    intra = relation_distance(s, t, beta=0.0)
    torch.testing.assert_close(relation_distance(*wide, beta=0.0), intra / 2)  # five of ten classes are constant
