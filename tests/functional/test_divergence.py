import numpy as np
import pytest
import torch

from distil_nlp.errors import ModelError
from distil_nlp.functional.divergence import kl_divergence, shared_vocabulary


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
