"""A student made from a teacher: fewer blocks, and narrower ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transformers import PreTrainedModel

from distil_nlp.blocks import find_stacks
from distil_nlp.errors import ModelError
from distil_nlp.signals import Batch
from distil_nlp.students.depth import kept_layers, shallower
from distil_nlp.students.width import narrower


def build_student(
    teacher: PreTrainedModel,
    *,
    num_layers: int | None = None,
    layers: Sequence[int] | None = None,
    decoder_layers: int | Sequence[int] | None = None,
    hidden_size: int | None = None,
    num_heads: int | None = None,
    intermediate_size: int | None = None,
    batches: Iterable[Batch] | None = None,
) -> PreTrainedModel:
    """Builds a student of the teacher's kind from some of its blocks, and from the most important parts of these.

    Embeddings, the kept blocks and the head are copied. The student is an ordinary model of the teacher's class, in
    float32, with a configuration of its own: ``from_pretrained`` loads what ``save_pretrained`` wrote. What is
    not given stays as it is in the teacher.

    Models whose attention goes through ``transformers.AttentionInterface`` can be narrower (BERT, RoBERTa, DistilBERT,
    ELECTRA, ALBERT, ModernBERT, GPT-2, Llama and its like); of others, ``intermediate_size`` alone can be smaller.

    Args:
        teacher: Any model that keeps its blocks in one list, or in one for its encoder and one for its decoder; it is
            not changed.
        num_layers: How many blocks to keep, at even distances, the last among them (2, 4, 6 for 3 of 6); of an
            encoder-decoder, that many of each.
        layers: Which blocks to keep instead, numbered from 1, or from the end as -1.
        decoder_layers: The same for the decoder of an encoder-decoder, where it differs: how many, or which. The cache
            with which T5 generates has no place for a decoder that is deeper than the encoder.
        hidden_size: How many hidden channels to keep. Where the configuration has no ``head_dim``, it is a multiple of
            the width of a head.
        num_heads: How many heads to keep in each block, whole groups where heads share keys and values. It follows
            from ``hidden_size`` where the configuration has no ``head_dim``.
        intermediate_size: How many neurons of a feed-forward layer to keep.
        batches: A few collated batches, on all of which activations show what is important; without them the size of
            weights does.

    Raises:
        ModelError: if nothing is asked for, for blocks that do not exist, and for sizes that the model cannot have.

    References:
        Sanh et al. (2019), arXiv:1910.01108, section 3: initialisation from the teacher's layers.
        Muralidharan et al. (2024), arXiv:2407.14679: width by importance.
    """
    widths = {"hidden_size": hidden_size, "num_heads": num_heads, "intermediate_size": intermediate_size}
    narrow = any(size is not None for size in widths.values())
    depth = [each for each in (num_layers, layers) if each is not None]
    if len(depth) > 1 or not (depth or narrow or decoder_layers is not None):
        raise ModelError(
            "A student keeps some of its teacher's blocks, or some of their parts.",
            f"num_layers={num_layers}, layers={layers}.",
            f"Give one of num_layers and layers, or a smaller size ({', '.join(widths)}).",
        )
    kept = _kept(teacher, num_layers, layers, decoder_layers) if depth or decoder_layers is not None else {}
    if narrow:
        teacher = narrower(teacher, **widths, batches=batches)
    return shallower(teacher, kept) if kept else teacher


def _kept(
    teacher: PreTrainedModel,
    num_layers: int | None,
    layers: Sequence[int] | None,
    decoder_layers: int | Sequence[int] | None,
) -> dict[str, list[int]]:
    stacks = find_stacks(teacher)
    kept = {field: kept_layers(blocks.num_layers, num_layers, layers) for field, blocks in stacks.items()}
    if decoder_layers is None:
        return kept
    if len(stacks) == 1:
        raise ModelError(
            f"A student with decoder_layers={decoder_layers} was asked for.",
            f"{type(teacher).__name__} has one stack of blocks.",
            "Use num_layers or layers.",
        )
    field, decoder = list(stacks.items())[-1]
    number, which = (decoder_layers, None) if isinstance(decoder_layers, int) else (None, decoder_layers)
    return kept | {field: kept_layers(decoder.num_layers, number, which)}
