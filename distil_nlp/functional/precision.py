"""What losses are computed in: float32, whatever a model runs in, or float64 where a model runs in that."""

from __future__ import annotations

import torch
from torch import Tensor


def precise(tensor: Tensor) -> Tensor:
    """As float32, unless it is float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def precise_pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float32, or as float64 if either is."""
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return student.to(dtype), teacher.to(dtype)
