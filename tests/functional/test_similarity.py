import pytest
import torch
import torch.nn.functional as F

from distil_nlp.functional.similarity import cosine_distance, mean_squared_error, normalized_squared_error, unit


def pair(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(3, 4, 7, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]
    return made[0].requires_grad_(), made[1]


def test_they_are_torchs_own():
    s, t = pair()
    close = {"rtol": 1e-12, "atol": 1e-14}
    torch.testing.assert_close(cosine_distance(s, t), 1 - F.cosine_similarity(s, t, dim=-1), **close)
    sides = F.normalize(s, dim=-1), F.normalize(t, dim=-1)
    torch.testing.assert_close(normalized_squared_error(s, t), F.mse_loss(*sides, reduction="none").sum(-1), **close)
    torch.testing.assert_close(mean_squared_error(s, t), F.mse_loss(s, t, reduction="none").mean(-1), **close)


@pytest.mark.parametrize("form", [cosine_distance, normalized_squared_error, mean_squared_error])
def test_gradcheck(form):
    s, t = pair()
    assert torch.autograd.gradcheck(lambda x: form(x, t), (s,))


@pytest.mark.parametrize("form", [cosine_distance, normalized_squared_error])
def test_zero_vectors_have_value_1_and_no_gradient(form):
    s = torch.zeros(2, 5, requires_grad=True)
    values = form(s, torch.ones(2, 5))
    values.sum().backward()
    torch.testing.assert_close(values, torch.ones(2))
    assert (s.grad == 0).all()


def test_unit_over_several_dimensions():
    vectors = torch.randn(3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(unit(vectors, dim=(1, 2)).flatten(1).norm(dim=1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("form", [cosine_distance, normalized_squared_error])
def test_bfloat16_gives_finite_float32(form):
    s, t = pair(torch.bfloat16)
    values = form(s, t)
    values.sum().backward()
    assert values.dtype == torch.float32
    assert torch.isfinite(values).all()
    assert torch.isfinite(s.grad).all()
