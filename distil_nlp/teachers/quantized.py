"""Teachers in 8-bit integers, for guidance only."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedModel

from distil_nlp.blocks import find_stacks
from distil_nlp.errors import MissingExtraError, ModelError


def quantize(model: PreTrainedModel) -> PreTrainedModel:
    """Puts 8-bit integers in the place of the weights of the linear layers in a teacher's blocks.

    Each row of a weight has one scale (symmetric); activations, embeddings and the head stay as they are. Such a model
    teaches. It is neither trained nor saved, and a student cannot take over its layers: make that first, or of the
    checkpoint.

    Args:
        model: The teacher, which is changed; one that is quantized stays as it is.

    Returns:
        The same model.

    Raises:
        MissingExtraError: torchao is not installed.
        ModelError: The blocks have no linear layers (those of GPT-2 are of another class).
    """
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise MissingExtraError("torchao", "torchao") from error
    blocks = tuple(f"{stack.path}." for stack in find_stacks(model).values())

    def inside(module: nn.Module, name: str) -> bool:
        linear = isinstance(module, nn.Linear) and name.startswith(blocks)
        return linear and not is_traceable_wrapper_subclass(module.weight)

    quantize_(model, Int8WeightOnlyConfig(set_inductor_config=False), filter_fn=inside)
    if not is_quantized(model):
        kinds = sorted({type(part).__name__ for name, part in model.named_modules() if name.startswith(blocks)})
        raise ModelError(
            f"The teacher's linear layers were to be quantized ({type(model).__name__}).",
            f"Its blocks have none; they are made of {', '.join(kinds)}.",
            "Leave out `quantization`.",
        )
    return model


def is_quantized(model: nn.Module) -> bool:
    """Whether some of a model's weights stand for others than those that they hold."""
    return any(map(is_traceable_wrapper_subclass, model.parameters()))


def plain_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """What a tensor holds: itself, or of a quantized one its integers and its scales."""
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from plain_tensors(getattr(tensor, name))
