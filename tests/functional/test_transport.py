"""The transport plan against a search over all vertices of the polytope; layer weights against the formula."""

import itertools
import math

import numpy as np
import pytest
import torch

from distil_nlp.errors import TrainingError
from distil_nlp.functional.transport import layer_weights_by_cost, transport_plan


def cheapest_vertex(costs, rows, columns):
    """Cost of the best basic solution, by trying every set of M + N - 1 cells."""
    cells = list(itertools.product(range(len(rows)), range(len(columns))))
    best = math.inf
    for basis in itertools.combinations(cells, len(rows) + len(columns) - 1):
        equations = np.zeros((len(rows) + len(columns), len(basis)))
        for number, (i, j) in enumerate(basis):
            equations[i, number] = equations[len(rows) + j, number] = 1
        flow, _, _, _ = np.linalg.lstsq(equations, np.concatenate([rows, columns]), rcond=None)
        whole = np.allclose(equations @ flow, np.concatenate([rows, columns]), atol=1e-9)
        if whole and flow.min() > -1e-9:
            best = min(best, sum(costs[cell] * f for cell, f in zip(basis, flow, strict=True)))
    return best


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(2, 3), (3, 3), (1, 4)])
def test_the_plan_is_the_cheapest(shape, seed):
    dice = np.random.default_rng(seed)
    costs = dice.random(shape) * 10.0 ** dice.integers(-6, 6)
    rows, columns = (w / w.sum() for w in (dice.random(n) + 0.1 for n in shape))
    plan = transport_plan(*(torch.from_numpy(x) for x in (costs, rows, columns))).numpy()
    assert plan.min() >= 0
    np.testing.assert_allclose(plan.sum(1), rows, atol=1e-9)
    np.testing.assert_allclose(plan.sum(0), columns, atol=1e-9)
    assert (plan * costs).sum() == pytest.approx(cheapest_vertex(costs, rows, columns), rel=1e-7)


def test_even_weights_of_equal_depths_give_a_permutation():
    costs = torch.tensor([[5.0, 1.0, 9.0], [1.0, 5.0, 9.0], [9.0, 9.0, 2.0]])
    even = torch.full((3,), 1 / 3)
    expected = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).double() / 3
    torch.testing.assert_close(transport_plan(costs, even, even), expected)


def test_a_real_size_with_free_layers():
    costs = torch.rand(12, 24)
    costs[0] = 0
    plan = transport_plan(costs, torch.full((12,), 1 / 12), torch.full((24,), 1 / 24))
    assert plan.sum() == pytest.approx(1)
    torch.testing.assert_close(plan.sum(1), torch.full((12,), 1 / 12, dtype=torch.float64))
    torch.testing.assert_close(
        transport_plan(torch.zeros(2, 2), torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])).sum(0),
        torch.tensor([0.25, 0.75], dtype=torch.float64),
    )


def test_costs_that_are_not_finite_are_refused():
    with pytest.raises(TrainingError, match="not finite"):
        transport_plan(torch.tensor([[1.0, math.nan]]), torch.ones(1), torch.tensor([0.5, 0.5]))


def test_layer_weights_favour_cheap_layers_within_bounds():
    costs = np.array([[1.0, 4.0], [2.0, 8.0], [0.0, 0.0]])
    plan = np.array([[0.3, 0.1], [0.1, 0.2], [0.1, 0.2]])
    for dim, layers in ((1, 3), (0, 2)):
        unit = []
        for layer in range(layers):
            flow, cost = (plan[layer], costs[layer]) if dim == 1 else (plan[:, layer], costs[:, layer])
            unit.append(sum(f * c for f, c in zip(flow, cost, strict=True)) / sum(flow))
        mean = sum(unit) / layers
        powers = [math.exp(2 * mean / (c + mean)) for c in unit]
        expected = [power / sum(powers) for power in powers]
        got = layer_weights_by_cost(torch.from_numpy(costs), torch.from_numpy(plan), dim=dim)
        np.testing.assert_allclose(got.numpy(), expected, atol=1e-12)
    weights = layer_weights_by_cost(torch.tensor([[1e9], [0.0]]), torch.tensor([[0.5], [0.5]]), dim=1)
    assert weights.max() / weights.min() <= math.e**2
    free = layer_weights_by_cost(torch.zeros(2, 2), torch.full((2, 2), 0.25), dim=1)
    torch.testing.assert_close(free, torch.tensor([0.5, 0.5], dtype=torch.float64))
