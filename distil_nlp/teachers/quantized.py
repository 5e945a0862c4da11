"""Teachers in 8-bit integers or 4-bit numbers, for guidance only."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedModel

from distil_nlp.blocks import find_stacks
from distil_nlp.errors import MissingExtraError, ModelError, near_match
from distil_nlp.weights import is_quantized, stands_for_others

NF4_SCALE = 64  # weights have a scale in common
Chosen = Callable[[nn.Module, str], bool]


def quantize(model: PreTrainedModel, to: str = "int8") -> PreTrainedModel:
    """Puts smaller numbers in the place of the weights of the linear layers in a teacher's blocks.

    Activations, embeddings and the head stay as they are. Such a model teaches. It is neither trained nor saved, and a
    student cannot take over its layers: make that first, or of the checkpoint.

    Args:
        model: The teacher, which is changed; what is quantized stays as it is.
        to: ``"int8"``, integers with one scale for each row (torchao), or ``"nf4"``, numbers of 4 bits with one scale
            for each 64 (bitsandbytes); layers whose input is no multiple of 64 wide then stay as they are, because
            scales that span two rows are read wrongly on some CPUs.

    Returns:
        The same model.

    Raises:
        MissingExtraError: torchao or bitsandbytes is not installed.
        ModelError: ``to`` is neither, or the blocks have no linear layers (those of GPT-2 are of another class).

    References:
        Dettmers et al. (2023), arXiv:2305.14314, section 3, for NF4.
    """
    if to not in METHODS:
        raise ModelError(f"A teacher was to be quantized to '{to}'.", near_match(to, METHODS))
    blocks = tuple(f"{stack.path}." for stack in find_stacks(model).values())

    def chosen(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and name.startswith(blocks) and not stands_for_others(module.weight)

    METHODS[to](model, chosen)
    if not is_quantized(model):
        kinds = sorted({type(part).__name__ for name, part in model.named_modules() if name.startswith(blocks)})
        raise ModelError(
            f"The teacher's linear layers were to be quantized ({type(model).__name__}).",
            f"Its blocks have none that {to} changes; they are made of {', '.join(kinds)}.",
            f"Leave out `quantization` (nf4 needs layers whose input is a multiple of {NF4_SCALE} wide).",
        )
    return model


def _to_int8(model: PreTrainedModel, chosen: Chosen) -> None:
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise MissingExtraError("torchao", "torchao") from error
    quantize_(model, Int8WeightOnlyConfig(set_inductor_config=False), filter_fn=chosen)


def _to_nf4(model: PreTrainedModel, chosen: Chosen) -> None:
    try:
        from bitsandbytes.nn import Linear4bit, Params4bit
    except ImportError as error:
        raise MissingExtraError("bitsandbytes", "bitsandbytes") from error
    linear = {name: module for name, module in model.named_modules() if chosen(module, name)}
    for name, layer in linear.items():
        if layer.in_features % NF4_SCALE:
            continue
        with torch.device("meta"):
            small = Linear4bit(layer.in_features, layer.out_features, bias=False, compute_dtype=layer.weight.dtype)
        settings = {"quant_type": "nf4", "blocksize": NF4_SCALE, "compress_statistics": False}
        weight = Params4bit(layer.weight.detach(), requires_grad=False, **settings)
        small.weight, small.bias = weight.to(layer.weight.device), layer.bias  # which quantizes it
        small.support_avx512bf16_for_cpu = False  # or else its first batch repacks the weights, to compute in bfloat16
        model.set_submodule(name, small.train(layer.training))


METHODS: dict[str, Callable[[PreTrainedModel, Chosen], None]] = {"int8": _to_int8, "nf4": _to_nf4}
