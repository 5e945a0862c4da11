import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distil_nlp.errors import ModelError
from distil_nlp.functional.divergence import (
    generalized_jsd,
    kl_divergence,
    relative_entropy,
    reverse_kl_divergence,
    shared_vocabulary,
    skew_kl_divergence,
    standardize,
    topk_kl_divergence,
    total_variation,
)

DIVERGENCES = {
    "kl": kl_divergence,
    "reverse_kl": reverse_kl_divergence,
    "jsd": generalized_jsd,
    "jsd_0.1": partial(generalized_jsd, beta=0.1),
    "jsd_0": partial(generalized_jsd, beta=0),
    "jsd_1": partial(generalized_jsd, beta=1),
    "skew": skew_kl_divergence,
    "skew_reverse": partial(skew_kl_divergence, reverse=True),
    "tvd": total_variation,
    "topk": partial(topk_kl_divergence, k=3),
}


def naive_kl(student, teacher, temperature):
    def soft(row):
        scaled = [value / temperature for value in row]
        top = max(scaled)
        powers = [np.exp(value - top) for value in scaled]
        return [power / sum(powers) for power in powers]

    result = []
    for s_row, t_row in zip(student, teacher, strict=True):
        p, q = soft(t_row), soft(s_row)
        result.append(temperature**2 * sum(a * (np.log(a) - np.log(b)) for a, b in zip(p, q, strict=True)))
    return np.array(result)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_equals_naive_loops_in_float64(temperature):
    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(5, 7)), rng.normal(size=(5, 7))
    got = kl_divergence(torch.from_numpy(s), torch.from_numpy(t), temperature=temperature)
    np.testing.assert_allclose(got.numpy(), naive_kl(s, t, temperature), rtol=1e-10, atol=1e-12)


def test_direction_is_teacher_to_student():
    """Forward KL is infinite-ish where the student misses the teacher's mass, not the other way round."""
    teacher = torch.tensor([[0.0, 0.0]])
    student = torch.tensor([[0.0, -50.0]])
    assert kl_divergence(student, teacher) > 20
    assert kl_divergence(teacher, student) < 1


def test_temperature_keeps_the_gradient_scale():
    rng = np.random.default_rng(0)
    s, t = torch.from_numpy(rng.normal(size=(4, 9))).requires_grad_(), torch.from_numpy(rng.normal(size=(4, 9)))
    temperature = 1e4  # where softmax is linear: d/dz = (z_s - z_t - means) / vocab
    kl_divergence(s, t, temperature=temperature).sum().backward()
    centred = (s - s.mean(-1, keepdim=True)) - (t - t.mean(-1, keepdim=True))
    torch.testing.assert_close(s.grad, (centred / 9).detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_softened_in_float32(dtype):
    s, t = (torch.randn(3, 1000) * 30).to(dtype), (torch.randn(3, 1000) * 30).to(dtype)
    got = kl_divergence(s, t, temperature=2.0)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, kl_divergence(s.double(), t.double(), temperature=2.0).float())


def test_padding_rows_leave_both_normalisers():
    s, t = torch.randn(2, 1000), torch.randn(2, 1008)
    cut_s, cut_t = shared_vocabulary(s, t)
    expected = naive_kl(s.double().numpy(), t[:, :1000].double().numpy(), 1.0)
    np.testing.assert_allclose(kl_divergence(cut_s, cut_t).numpy(), expected, rtol=1e-4)


def test_other_vocabularies_are_refused():
    with pytest.raises(ModelError, match="30,522"):
        shared_vocabulary(torch.zeros(1, 30522), torch.zeros(1, 50265))


def random_pair(*shape, scale=3.0):
    rng = np.random.default_rng(0)
    return rng.normal(size=shape) * scale, rng.normal(size=shape) * scale


def soft(row, temperature=1.0):
    powers = [math.exp((value - max(row)) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)


def mix(p, q, share):
    return [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]


def twin(value, s, t, temperature=1.0):
    """From a function of the student's and the teacher's probabilities to one value per row, with T²."""
    rows = zip(s.tolist(), t.tolist(), strict=True)
    return np.array([temperature**2 * value(soft(a, temperature), soft(b, temperature)) for a, b in rows])


def check(got, expected):
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-10, atol=1e-13)


def merged(s, t, k):
    """KL over the teacher's k likeliest classes and one for the sum of all others."""
    order = sorted(range(len(t)), key=lambda v: -t[v])
    p, q = ([x[v] for v in order[:k]] + [sum(x[v] for v in order[k:])] for x in (t, s))
    return kl(p, q)


TWINS = {
    "kl": lambda s, t: kl(t, s),
    "reverse_kl": lambda s, t: kl(s, t),
    "jsd": lambda s, t: (kl(t, mix(t, s, 0.5)) + kl(s, mix(t, s, 0.5))) / 2,
    "jsd_0.1": lambda s, t: 0.1 * kl(t, mix(t, s, 0.1)) + 0.9 * kl(s, mix(t, s, 0.1)),
    "jsd_0": lambda s, t: kl(t, s),
    "jsd_1": lambda s, t: kl(s, t),
    "skew": lambda s, t: kl(t, mix(t, s, 0.1)),
    "skew_reverse": lambda s, t: kl(s, mix(s, t, 0.1)),
    "tvd": lambda s, t: sum(abs(a - b) for a, b in zip(s, t, strict=True)) / 2,
    "topk": partial(merged, k=3),
}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_each_equals_its_formula_in_float64(name, temperature):
    s, t = random_pair(6, 9)
    got = DIVERGENCES[name](torch.from_numpy(s), torch.from_numpy(t), temperature=temperature)
    check(got, twin(TWINS[name], s, t, temperature))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_leading_dimensions_are_kept(name):
    s, t = (torch.from_numpy(x) for x in random_pair(2, 3, 9))
    got = DIVERGENCES[name](s, t)
    assert got.shape == (2, 3)
    torch.testing.assert_close(got.flatten(), DIVERGENCES[name](s.flatten(0, 1), t.flatten(0, 1)))
    assert DIVERGENCES[name](s[:0], t[:0]).shape == (0, 3)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_gradients_are_those_of_finite_differences(name):
    s, t = (torch.from_numpy(x) for x in random_pair(2, 5, scale=1.0))
    assert torch.autograd.gradcheck(lambda x: DIVERGENCES[name](x, t, temperature=1.5), s.requires_grad_())


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name, dtype):
    s, t = ((torch.randn(3, 1000) * 10).to(dtype) for _ in range(2))
    s.requires_grad_()
    got = DIVERGENCES[name](s, t, temperature=2.0)
    got.sum().backward()
    assert got.dtype == torch.float32
    torch.testing.assert_close(
        got.detach(), DIVERGENCES[name](s.detach().double(), t.double(), temperature=2.0).float()
    )
    assert torch.isfinite(s.grad).all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_probabilities_that_underflow_give_no_nan(name):
    t = torch.tensor([[1e4, -1e4, 0.0, 5.0, -1e4], [-1e4, 1e4, 1e4, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    s = t.roll(1, dims=-1).requires_grad_()
    got = DIVERGENCES[name](s, t)
    got.sum().backward()
    assert torch.isfinite(got).all()
    assert (got >= 0).all()
    assert torch.isfinite(s.grad).all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_classes_that_both_sides_rule_out_might_as_well_be_missing(name):
    s, t = (torch.from_numpy(x) for x in random_pair(4, 7))
    results = []
    for hidden in (False, True):
        ours, theirs = (F.pad(x, (2, 1), value=-math.inf) if hidden else x for x in (s, t))
        ours = ours.clone().requires_grad_()
        value = DIVERGENCES[name](ours, theirs)
        value.sum().backward()
        results.append((value.detach(), ours.grad[:, 2:-1] if hidden else ours.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-13)
    assert torch.isfinite(ours.grad).all()


@pytest.mark.parametrize("name", ["jsd", "jsd_0.1", "skew", "skew_reverse", "tvd"])
def test_bounded_divergences_stay_so_where_one_side_rules_a_class_out(name):
    values = {"jsd": math.log(2), "jsd_0.1": None, "skew": -math.log(0.1), "skew_reverse": -math.log(0.1), "tvd": 1.0}
    s = torch.tensor([[0.0, -math.inf, 0.0], [-math.inf, 0.0, -math.inf]], requires_grad=True)
    t = torch.tensor([[-math.inf, 0.0, -math.inf], [0.0, -math.inf, 0.0]])
    got = DIVERGENCES[name](s, t)
    got.sum().backward()
    expected = values[name] or 0.1 * -math.log(0.1) + 0.9 * -math.log(0.9)
    np.testing.assert_allclose(got.detach().numpy(), [expected] * 2, rtol=1e-5)
    assert torch.isfinite(s.grad).all()


def test_kl_is_infinite_where_the_second_side_alone_rules_a_class_out():
    s, t = torch.tensor([0.0, -math.inf]), torch.tensor([0.0, 0.0])
    assert kl_divergence(s, t) == math.inf
    assert kl_divergence(t, s) == pytest.approx(math.log(2))
    assert reverse_kl_divergence(t, s) == math.inf


def test_reverse_kl_is_the_other_direction():
    """It grows where the student has mass that the teacher lacks, not the other way round."""
    flat, sharp = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, -50.0]])
    assert reverse_kl_divergence(flat, sharp) > 20
    assert reverse_kl_divergence(sharp, flat) < 1


@pytest.mark.parametrize("name", [name for name in DIVERGENCES if name != "tvd"])
def test_temperature_squared_keeps_the_size_of_the_gradient(name):
    s, t = (torch.from_numpy(x) for x in random_pair(4, 9, scale=1.0))
    gradients = []
    for temperature in (300.0, 600.0):  # where softmax is linear
        x = s.clone().requires_grad_()
        DIVERGENCES[name](x, t, temperature=temperature).sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=2e-2, atol=1e-3)


def test_total_variation_is_flat_where_student_and_teacher_agree():
    s = torch.randn(3, 5, requires_grad=True)
    total_variation(s, s.detach().clone()).sum().backward()
    assert (s.grad == 0).all()


def test_relative_entropy_of_equal_distributions_is_zero():
    log_p = torch.tensor([0.3, 0.7, 0.0]).log()
    assert relative_entropy(log_p, log_p) == 0


def test_standardized_logits_have_mean_zero_and_deviation_one():
    z = random_pair(4, 9)[0]
    expected = (z - z.mean(-1, keepdims=True)) / z.std(-1, keepdims=True)
    np.testing.assert_allclose(standardize(torch.from_numpy(z)).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("row", [[2.0, 2.0, 2.0], [7.0], []])
def test_standardizing_equal_logits_gives_zeros_with_a_small_gradient(row):
    z = torch.tensor([row], requires_grad=True)
    scaled = standardize(z)
    (scaled * torch.arange(len(row))).sum().backward()
    assert (scaled == 0).all()
    assert (z.grad.abs() < 10).all()
