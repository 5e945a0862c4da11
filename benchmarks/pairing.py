"""What the rows of a test set add to a metric, kept as text, and intervals of a difference from it."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distil_nlp.evaluation.metrics import METRICS


def packed(figures: NDArray[np.float64]) -> str:
    """Figures of all rows, ``[rows, figures]``, of which the metric is made."""
    data = np.ascontiguousarray(figures.T, dtype="<f4").tobytes()
    return f"{len(figures)}:{base64.b64encode(zlib.compress(data, 9)).decode()}"


def unpacked(text: str) -> NDArray[np.float64]:
    """The figures that were :func:`packed`."""
    rows, data = text.split(":")
    return np.frombuffer(zlib.decompress(base64.b64decode(data)), "<f4").reshape(-1, int(rows)).T.astype(float)


def interval(metric: str, ours: Sequence[str], theirs: Sequence[str], draws: int = 4000) -> tuple[float, float]:
    """95 % of a difference's paired bootstrap over test rows and, with them, over seeds.

    Args:
        metric: Its name.
        ours: Packed figures of each seed.
        theirs: The same of what is compared with it, on the same rows.
        draws: Resampled test sets.
    """
    generator = np.random.default_rng(0)
    score = METRICS[metric]().of_totals
    a, b = (np.stack([unpacked(each) for each in seeds]) for seeds in (ours, theirs))  # [seeds, rows, figures]
    differences = []
    for _ in range(draws):
        rows = generator.integers(0, a.shape[1], a.shape[1])
        first, second = (score(x[generator.integers(0, len(x), len(x))][:, rows].sum(axis=1)).mean() for x in (a, b))
        differences.append(first - second)
    low, high = np.percentile(differences, [2.5, 97.5])
    return float(low), float(high)
