"""Distances between representations."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean squared difference over the width: :math:`\frac{1}{d} \| h_s - h_t \|^2`.

    Args:
        student: ``[..., width]``.
        teacher: ``[..., width]``.

    Returns:
        ``[...]``, in float32, or in float64 if either side is.

    References:
        Romero et al. (2015), arXiv:1412.6550, eq. 3 (a mean over the width instead of half a sum).
        Jiao et al. (2020), arXiv:1909.10351, eq. 9.
    """
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return (student.to(dtype) - teacher.to(dtype)).square().mean(-1)
