import numpy as np
import pytest
import torch
from naive_relations import pool as naive_pool

from distil_nlp.functional.pooling import POOLINGS, pool

VALID = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 1, 0], [0, 0, 0, 0, 1]]).bool()


def states(rows=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, 5, 3, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_equals_plain_loops_with_padding_on_either_side(pooling):
    made = states()
    expected = naive_pool(made.detach().numpy(), VALID.numpy(), pooling)
    np.testing.assert_allclose(pool(made, VALID, pooling).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_gets_no_gradient_and_has_no_part(pooling):
    made = states()
    pooled = pool(made, VALID, pooling)
    pooled.square().sum().backward()
    assert (made.grad[~VALID] == 0).all()
    assert (made.grad[VALID].abs().sum() > 0).all()
    changed = made.detach().masked_fill(~VALID[..., None], 1e4)
    torch.testing.assert_close(pool(changed, VALID, pooling), pooled.detach())


def test_a_row_of_padding_alone_is_zero_under_mean_and_finite_under_all():
    made = states(rows=2)
    valid = torch.tensor([[False] * 5, [True] * 5])
    assert (pool(made, valid, "mean")[0] == 0).all()
    for pooling in POOLINGS:
        made.grad = None
        pooled = pool(made, valid, pooling)
        pooled.sum().backward()
        assert torch.isfinite(pooled).all()
        assert torch.isfinite(made.grad).all()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_half_precision_is_pooled_in_float32(pooling):
    made = states(dtype=torch.bfloat16)
    pooled = pool(made, VALID, pooling)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, pool(made.double(), VALID, pooling).float())


@pytest.mark.parametrize("pooling", POOLINGS)
def test_an_empty_batch_is_empty(pooling):
    pooled = pool(torch.zeros(0, 5, 3, requires_grad=True), torch.zeros(0, 5, dtype=torch.bool), pooling)
    assert pooled.shape == (0, 3)
    pooled.sum().backward()
