"""A student made from a teacher: fewer blocks, and narrower ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from distil_nlp.blocks import find_stacks, kept_layers
from distil_nlp.errors import ModelError
from distil_nlp.signals import Batch
from distil_nlp.students.adapters import refuse_adapters
from distil_nlp.students.choice import Layers, choose_blocks
from distil_nlp.students.depth import shallower
from distil_nlp.students.width import narrower
from distil_nlp.weights import is_quantized


def build_student(
    teacher: PreTrainedModel,
    *,
    num_layers: int | None = None,
    layers: Layers | None = None,
    decoder_layers: int | Sequence[int] | None = None,
    hidden_size: int | None = None,
    num_heads: int | None = None,
    intermediate_size: int | None = None,
    batches: Iterable[Batch] | None = None,
) -> PreTrainedModel:
    """Builds a student of the teacher's kind from some of its blocks, and from the most important parts of these.

    Embeddings, the kept blocks and the head are copied. The student is an ordinary model of the teacher's class, in
    float32, with a configuration of its own: ``from_pretrained`` loads what ``save_pretrained`` wrote. What is
    not given stays as it is in the teacher. Which blocks were kept, and of how many, is noted as
    ``config.kept_layers`` and ``config.kept_layers_of``, for the layer mapping ``"kept"``; of a teacher that is a
    student itself, these are blocks of the model that it was made from.

    Models whose attention goes through ``transformers.AttentionInterface`` can be narrower (BERT, RoBERTa, DistilBERT,
    ELECTRA, ALBERT, ModernBERT, GPT-2, Llama and its like); of others, ``intermediate_size`` alone can be smaller.

    Args:
        teacher: Any model that keeps its blocks in one list, or in one for its encoder and one for its decoder; it is
            not changed.
        num_layers: How many blocks to keep, at even distances, the last among them (2, 4, 6 for 3 of 6); of an
            encoder-decoder, that many of each.
        layers: Which blocks to keep instead, numbered from 1, or from the end as -1. Beside ``num_layers``, the rule by
            which so many are chosen: ``"uniform"``, ``"first"``, ``"last"``, ``"skip"``, or with ``batches``
            ``"cka"``, those that stand best for all, and ``"influence"``, those that change the most
            (:func:`~distil_nlp.students.choose_blocks`).
        decoder_layers: For the decoder of an encoder-decoder, where it differs: how many, or which. The cache
            with which T5 generates has no place for a decoder that is deeper than the encoder.
        hidden_size: How many hidden channels to keep. Where the configuration has no ``head_dim``, it is a multiple of
            the width of a head.
        num_heads: How many heads to keep in each block, whole groups where heads share keys and values. It follows
            from ``hidden_size`` where the configuration has no ``head_dim``.
        intermediate_size: How many neurons of a feed-forward layer to keep.
        batches: A few collated batches. On all of them activations show which parts are important; without them the
            size of weights does.

    Raises:
        ModelError: for what is no model or has adapters, if nothing is asked for, for blocks or rules that do not
            exist, for blocks that would be others in their new places, and for sizes that the model cannot have.

    References:
        Sanh et al. (2019), arXiv:1910.01108, section 3: initialisation from the teacher's layers.
        Muralidharan et al. (2024), arXiv:2407.14679: width by importance.
    """
    _check_teacher(teacher)
    widths = {"hidden_size": hidden_size, "num_heads": num_heads, "intermediate_size": intermediate_size}
    widths = {name: _whole(name, size) for name, size in widths.items()}
    num_layers, layers = _whole("num_layers", num_layers), _numbers("layers", layers)
    if decoder_layers is not None:
        number = isinstance(decoder_layers, Integral)
        decoder_layers = (_whole if number else _numbers)("decoder_layers", decoder_layers)
    narrow = any(size is not None for size in widths.values())
    deep = any(asked is not None for asked in (num_layers, layers, decoder_layers))
    twice = num_layers is not None and layers is not None and not isinstance(layers, str)
    if twice or not (deep or narrow):
        raise ModelError(
            "A student keeps some of its teacher's blocks, or some of their parts.",
            f"num_layers={num_layers}, layers={layers}.",
            f"Give num_layers, or a list of layers, or a smaller size ({', '.join(widths)}).",
        )
    if narrow and isinstance(layers, str) and batches is not None:
        batches = list(batches)  # they are read twice
    depth: dict[str, Any] = {"num_layers": num_layers, "layers": layers, "decoder_layers": decoder_layers}
    kept = choose_blocks(teacher, **depth, batches=batches) if deep else {}
    student = narrower(teacher, **widths, batches=batches) if narrow else teacher
    student = shallower(student, kept) if deep else student
    [(field, blocks), *others] = find_stacks(teacher).items()
    if not others:  # of two stacks hidden states are not matched
        every = range(1, blocks.num_layers + 1)
        first, student.config.kept_layers_of = kept_layers(teacher.config, len(every)) or (every, len(every))
        student.config.kept_layers = [first[block - 1] for block in kept.get(field, every)]
    return student


def _whole(name: str, value: Any) -> int | None:
    """A number as Python's own: NumPy's cannot be saved in a configuration."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise _mistyped(name, value, "A whole number is needed.")
    return int(value)


def _numbers(name: str, value: Any) -> Any:
    """A list of blocks; the name of a rule as it is."""
    if value is None or (isinstance(value, str) and name == "layers"):
        return value
    if isinstance(value, Integral):
        raise _mistyped(name, value, f"Did you mean num_{name}={value}?")
    known = isinstance(value, Sequence) and not isinstance(value, str)
    if not known or any(isinstance(each, bool) or not isinstance(each, Integral) for each in value):
        raise _mistyped(name, value, f"Write a list of the blocks' numbers: {name}=[1, 3], say.")
    return [int(each) for each in value]


def _mistyped(name: str, value: Any, fix: str) -> ModelError:
    return ModelError(
        f"A student with {name}={value!r} was asked for.", f"That is of the type {type(value).__name__}.", fix
    )


def _check_teacher(teacher: Any) -> None:
    if not isinstance(teacher, nn.Module):
        raise ModelError(
            "A student is made of a model that is loaded.",
            f"Found {teacher!r}." if isinstance(teacher, str) else f"Found an object of type {type(teacher).__name__}.",
            "Load it first: AutoModelForSequenceClassification.from_pretrained(...), say.",
        )
    refuse_adapters(teacher)
    if is_quantized(teacher):
        raise ModelError(
            "A student takes over its teacher's weights.",
            "Those of this teacher are quantized.",
            "Make the student first, or of the checkpoint as it was before.",
        )
