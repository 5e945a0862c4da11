"""CKA by its definition with a centring matrix, the path by trying all."""

import itertools

import numpy as np
import pytest
import torch

from distil_nlp.functional.layer_similarity import linear_cka, monotone_path


def naive_cka(x, y):
    n = len(x)
    centring = np.eye(n) - np.ones((n, n)) / n

    def hsic(k, m):
        return np.trace(k @ centring @ m @ centring) / (n - 1) ** 2

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def test_cka_is_its_definition():
    dice = np.random.default_rng(0)
    ours = [dice.normal(size=(20, 5)) * 10.0**power for power in (-3, 0)]
    theirs = [np.concatenate([ours[0] * 100, dice.normal(size=(20, 4))], axis=1), dice.normal(size=(20, 7)) + 50]
    got = linear_cka([torch.from_numpy(x) for x in ours], [torch.from_numpy(y) for y in theirs])
    expected = [[naive_cka(x, y) for y in theirs] for x in ours]
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-10)


def test_cka_does_not_see_rotation_scale_and_mean():
    x = torch.randn(30, 6, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    assert linear_cka([x], [3 * x @ rotation + 7]).item() == pytest.approx(1, abs=1e-12)
    assert linear_cka([x], [torch.ones(30, 4)]).item() == 0
    assert torch.isfinite(linear_cka([x.bfloat16() * 1e20], [x.bfloat16()])).all()


@pytest.mark.parametrize("shape", [(3, 5), (4, 2), (1, 4), (3, 3)])
def test_the_path_is_the_best_of_all(shape):
    for seed in range(20):
        values = np.random.default_rng(seed).random(shape).round(1)  # with ties
        path = monotone_path(torch.from_numpy(values))
        assert path == sorted(path)
        assert len(path) == shape[0]

        def total(columns, values=values):
            return sum(values[row, column] for row, column in enumerate(columns))

        best = max(total(c) for c in itertools.combinations_with_replacement(range(shape[1]), shape[0]))
        assert total(path) == pytest.approx(best, abs=1e-12)


def test_equally_good_columns_give_the_first():
    assert monotone_path(torch.ones(3, 4)) == [0, 0, 0]
