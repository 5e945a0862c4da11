"""A narrower copy of a teacher."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import PreTrainedModel

from distil_nlp.errors import ModelError
from distil_nlp.signals import Batch
from distil_nlp.students.axes import check_axes, cut, find_axes
from distil_nlp.students.importance import by_activations, by_weights
from distil_nlp.students.inherit import inherit
from distil_nlp.students.sizes import smaller_sizes


def narrower(
    teacher: PreTrainedModel,
    *,
    hidden_size: int | None = None,
    num_heads: int | None = None,
    intermediate_size: int | None = None,
    batches: Iterable[Batch] | None = None,
) -> PreTrainedModel:
    """Builds a model of the teacher's kind, and of all its blocks, with the most important parts of each.

    Hidden channels are the same everywhere, because blocks add to one stream; heads and neurons are chosen in each
    block. Before anything is removed it is checked that the parts are what they are taken for.

    Args:
        teacher: An encoder or a decoder; it is not changed.
        hidden_size: Hidden channels to keep.
        num_heads: Heads to keep in each block; a head keeps its width.
        intermediate_size: Feed-forward neurons to keep in each block.
        batches: Collated batches on which importance is measured; without them the size of weights decides.

    Raises:
        ModelError: for sizes that the model cannot have, or a model whose parts cannot be found.

    References:
        Muralidharan et al. (2024), arXiv:2407.14679, for the importance. All sizes are cut at once.
    """
    if getattr(teacher.config, "is_encoder_decoder", False):
        raise ModelError(
            f"A narrower student of {type(teacher).__name__} was asked for.",
            "It has an encoder and a decoder.",
            "Encoder-only and decoder-only models can be made narrower; ask for fewer layers here (num_layers).",
        )
    sizes = smaller_sizes(
        teacher.config, hidden_size=hidden_size, num_heads=num_heads, intermediate_size=intermediate_size
    )
    axes, state = find_axes(teacher, sizes), teacher.state_dict()
    if axes:
        check_axes(teacher, axes)
    measured = by_weights(state, axes) if batches is None or not axes else by_activations(teacher, axes, batches)
    count = {"hidden channels": sizes.hidden, "heads": sizes.key_value_heads, "neurons": sizes.intermediate}
    kept = {units.group: measured[units.group].topk(count[units.kind]).indices.sort().values for units in axes.values()}
    return inherit(teacher, sizes.configured(teacher.config), cut(state, axes, kept))
