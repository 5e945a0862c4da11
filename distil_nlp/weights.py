"""What parameters hold, and what they stand for where torchao or bitsandbytes has quantized them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def is_quantized(model: nn.Module) -> bool:
    """Whether some of a model's weights stand for others than those that they hold."""
    return any(map(stands_for_others, model.parameters()))


def stands_for_others(tensor: Tensor) -> bool:
    """Whether a parameter is quantized."""
    return is_traceable_wrapper_subclass(tensor) or not tensor.is_floating_point()


def plain_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """What a tensor holds: itself, or of a quantized one its small numbers and its scales."""
    if is_traceable_wrapper_subclass(tensor):  # torchao's
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            yield from plain_tensors(getattr(tensor, name))
        return
    yield tensor.data
    state, scales = (getattr(tensor, name, None) for name in ("quant_state", "SCB"))  # bitsandbytes', of 4 and 8 bits
    found = [scales] if state is None else state.as_dict().values()
    yield from (part for part in found if isinstance(part, Tensor))


def count_of(tensor: Tensor) -> int:
    """How many weights a tensor stands for."""
    state = getattr(tensor, "quant_state", None)
    count: int = (tensor if state is None else state.shape).numel()
    return count
