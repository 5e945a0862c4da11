"""Pairs of layers chosen by how alike two models' hidden states are."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distil_nlp.blocks import describe, inner_model
from distil_nlp.capture import capture
from distil_nlp.errors import ModelError
from distil_nlp.functional.layer_similarity import linear_cka, monotone_path
from distil_nlp.mapping import LayerMapping
from distil_nlp.signals import Batch, Needs, Signals, valid_tokens
from distil_nlp.teachers import Teacher, as_teacher

TOKENS = 1024  # their Gram matrix in float64 takes 8 MB for each layer


def choose_layers(
    student: PreTrainedModel, teacher: PreTrainedModel | Teacher, batches: Iterable[Batch]
) -> LayerMapping:
    """Pairs every student block with the teacher block whose hidden states are most like its own.

    Blocks stay in order: a later student block never follows an earlier teacher block, and two may follow the same. Of
    all such choices it is the one with the largest sum of similarities (linear CKA on tokens that are not padding). It
    is made for the two models as they are, before training; the student should start from weights that mean something.

    Args:
        student: The student.
        teacher: The teacher.
        batches: Real batches; a few are enough, since the first 1,024 tokens are looked at.

    Returns:
        Explicit pairs, for any number of objectives.

    Raises:
        ModelError: if there is no batch.

    References:
        Kornblith et al. (2019), arXiv:1905.00414, section 3, for the similarity.
    """
    guide = as_teacher(teacher)
    ours, theirs = (
        _all_blocks(layers) for layers in (describe(inner_model(student)).num_layers, guide.shape.num_layers)
    )
    guide.prepare(theirs, student.device)
    tokens: list[tuple[list[Tensor], list[Tensor]]] = []
    seen, was_training = 0, student.training
    student.eval()
    try:
        for batch in batches:
            placed = {key: value.to(student.device) for key, value in batch.items() if isinstance(value, Tensor)}
            with torch.no_grad():
                signals = capture(student, placed, ours), guide(placed, theirs)
            student_tokens, teacher_tokens = (_valid_states(each, placed) for each in signals)
            tokens.append((student_tokens, teacher_tokens))
            seen += len(student_tokens[0])
            if seen >= TOKENS:
                break
    finally:
        student.train(was_training)
    if not seen:
        raise ModelError(
            "Layers are chosen by comparing hidden states on real batches (mapping: cka).",
            "There is no batch.",
            "Give some, such as the first ones of the training data.",
        )
    joined = [
        [torch.cat(layer)[:TOKENS] for layer in zip(*(batch[side] for batch in tokens), strict=True)] for side in (0, 1)
    ]
    path = monotone_path(linear_cka(*joined))
    return LayerMapping([(block, column + 1) for block, column in enumerate(path, start=1)])


def _all_blocks(layers: int) -> Needs:
    return Needs(hidden_states=frozenset(range(1, layers + 1)))


def _valid_states(signals: Signals, batch: Batch) -> list[Tensor]:
    """Hidden states by block, ``[tokens, width]``, without padding."""
    valid = valid_tokens(batch)
    return [signals.hidden_states[block][valid].float().cpu() for block in sorted(signals.hidden_states)]
