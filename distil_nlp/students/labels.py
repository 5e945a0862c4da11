"""A model whose head has other labels, or has them in another order."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from transformers import PreTrainedModel

from distil_nlp.label_names import as_compared, names_by_id
from distil_nlp.students.inherit import changed_axes, inherit


def with_labels(model: PreTrainedModel, names: Sequence[str]) -> PreTrainedModel:
    """A copy of a model whose head gives labels of these names, in this order; the model itself if it does already.

    Labels are found by their names (``config.id2label``), whatever their case unless it tells two apart. What the head
    knows of them is kept; for others it gives 0 until it is trained.

    Args:
        model: A model with a head of labels.
        names: Those that are wanted.

    Raises:
        ModelError: if the model's class does not allow another number of labels.
    """
    id2label = names_by_id(model.config)
    known, wanted = as_compared(list(id2label.values()), names)
    places = dict(zip(known, id2label, strict=True))
    kept = [places.get(name) for name in wanted]
    if kept == list(range(len(id2label))):
        return model
    more = copy.deepcopy(model.config)
    more.num_labels = len(id2label) + 1
    state = model.state_dict()
    for name, axis in changed_axes(model, more):
        old = state[name].movedim(axis, 0)  # [labels, ...]
        rows = old.new_zeros(len(names), *old.shape[1:])
        for row, place in enumerate(kept):
            if place is not None:
                rows[row] = old[place]
        state[name] = rows.movedim(0, axis)
    config = copy.deepcopy(model.config)
    config.id2label, config.label2id = dict(enumerate(names)), {name: index for index, name in enumerate(names)}
    return inherit(model, config, state)
