"""Tensors as rows of arrays, in the precision in which they are stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distil_nlp.errors import ModelError
from distil_nlp.teachers.store import Array, Row

DTYPES = ("float32", "float16", "int8")
SCALE = ".scale"


class Packing:
    """Rows in the making: puts tensors in, cut into rows, and keeps count of the precision that they lose.

    8-bit integers have one scale for each vector, the largest of its absolute values over 127 (symmetric). They
    are for features; predictions are stored as float16 then.

    Args:
        dtype: One of :data:`DTYPES`.
    """

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.rows: list[dict[str, Array]] = []
        self._squares: dict[str, tuple[float, float]] = {}

    def start(self, rows: int) -> None:
        """Begins new rows."""
        self.rows = [{} for _ in range(rows)]

    def put(self, name: str, values: Tensor, counts: Sequence[int], *, feature: bool = True) -> None:
        """Adds floating-point values to all rows.

        Args:
            name: Of the array.
            values: ``[sum of counts, ...]``: the rows one after another.
            counts: How many of them belong to each row.
            feature: Whether 8 bits are enough.

        Raises:
            ModelError: if a number is too large for float16.
        """
        exact = values.detach().float().cpu().numpy()
        if self.dtype == "int8" and feature:
            flat = exact.reshape(len(exact), -1)
            scale = np.abs(flat).max(axis=1, initial=0.0) / 127
            safe = np.where(scale > 0, scale, 1).astype(np.float32)
            stored = np.rint(flat / safe[:, None]).astype(np.int8).reshape(exact.shape)
            self.put_array(name + SCALE, safe, counts)
            self._count_loss(name, exact, stored * safe.reshape(-1, *[1] * (exact.ndim - 1)))
        elif self.dtype == "float32":
            stored = exact
        else:
            with np.errstate(over="ignore"):
                stored = exact.astype(np.float16)
            if bool((np.isinf(stored) & np.isfinite(exact)).any()):
                raise ModelError(
                    f"{name} was to be stored as float16.",
                    f"It goes up to {np.abs(exact[np.isfinite(exact)]).max():.3g}, and float16 ends at 65,504.",
                    "Use dtype='float32', or 'int8' if it is not a prediction.",
                )
            self._count_loss(name, exact, stored)
        self.put_array(name, stored, counts)

    def put_array(self, name: str, values: Array, counts: Sequence[int]) -> None:
        """Adds values as they are to all rows."""
        end = 0
        for row, count in zip(self.rows, counts, strict=True):
            row[name] = values[end : end + count]
            end += count

    @property
    def errors(self) -> dict[str, float]:
        """Root of the mean squared error of what was stored, relative to that of the values, by name."""
        return {name: (lost / total) ** 0.5 if total else 0.0 for name, (lost, total) in self._squares.items()}

    def _count_loss(self, name: str, exact: Array, stored: Array) -> None:
        known = np.isfinite(exact)
        difference = np.where(known, exact, 0) - np.where(known, stored, 0)
        lost, total = self._squares.get(name, (0.0, 0.0))
        self._squares[name] = (
            lost + float(np.square(difference, dtype=np.float64).sum()),
            total + float(np.square(exact[known], dtype=np.float64).sum()),
        )


def unpacked(row: Row, name: str) -> Array:
    """An array of a row in float32, or as it is stored: ``[count, ...]``."""
    values = row[name]
    if values.dtype != np.int8:
        return values
    return values * row[name + SCALE].reshape(-1, *[1] * (values.ndim - 1))


def by_rows(tensor: Tensor, counts: Sequence[int]) -> Tensor:
    """The first ``counts[i]`` entries of each row i, one after another: ``[batch, tokens, ...] -> [sum, ...]``."""
    return torch.cat([tensor[row, :count] for row, count in enumerate(counts)])


def placed(parts: Sequence[Array], first: Sequence[int], width: int, device: torch.device) -> Tensor:
    """Puts each row's values where its tokens stand: ``[batch, width, ...]`` float32, 0 elsewhere."""
    out = np.zeros((len(parts), width, *parts[0].shape[1:]), dtype=np.float32)
    for row, (part, start) in enumerate(zip(parts, first, strict=True)):
        out[row, start : start + len(part)] = part
    return torch.from_numpy(out).to(device)
