"""What language models are scored by, against its definition in double precision."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distil_nlp.data.tasks import TASKS, language_modeling

IGNORED = -100


def naive(logits: np.ndarray, labels: np.ndarray, shift: int) -> list[list[tuple[float, float]]]:
    rows = []
    for row, wanted in zip(logits.astype(np.float64), labels, strict=True):
        figures = []
        for place in range(shift, len(wanted)):
            if wanted[place] != IGNORED:
                scores = row[place - shift].tolist()
                total = math.log(math.fsum(math.exp(score - max(scores)) for score in scores)) + max(scores)
                figures.append((total - scores[wanted[place]], float(scores.index(max(scores)) == wanted[place])))
        rows.append(figures)
    return rows


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("held", [1, 3 * 23, 2**22])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_figures_are_those_of_the_definition(shift, held, dtype, monkeypatch):
    monkeypatch.setattr(language_modeling, "_LOGITS", held)
    generator = np.random.default_rng(shift)
    logits = (30 * generator.normal(size=(4, 11, 23))).astype(dtype)
    labels = generator.integers(0, 23, (4, 11))
    labels[:, :-1][generator.random((4, 10)) < 0.3] = IGNORED
    best = logits.argmax(-1)
    labels[2, shift:] = best[2, : 11 - shift]  # all right
    labels[3] = IGNORED  # none counts
    task = type("Shifted", (TASKS["fill-mask"],), {"shift": shift})(None)
    found = task.keep({"logits": logits}, {"labels": labels})
    for figures, expected in zip(found, naive(logits, labels, shift), strict=True):
        assert figures.dtype == np.float32
        assert figures.shape == (len(expected), 2)
        np.testing.assert_allclose(figures, np.reshape(expected, (-1, 2)), rtol=2e-6, atol=2e-5)
    assert found[2][:, 1].all()


def test_the_first_of_equal_logits_is_the_choice():
    task = TASKS["fill-mask"](None)
    found = task.keep({"logits": np.zeros((1, 2, 5), np.float32)}, {"labels": np.array([[0, 3]])})
    np.testing.assert_allclose(found[0], [[math.log(5), 1], [math.log(5), 0]], rtol=1e-6)
