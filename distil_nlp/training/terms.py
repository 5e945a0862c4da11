"""From two models' signals to the terms of the loss, and what both must be asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distil_nlp.capture import has_plain_vocabulary_head
from distil_nlp.layer_weights import LayerWeights
from distil_nlp.objectives import Objective
from distil_nlp.objectives.vocabulary import vocabulary_terms
from distil_nlp.signals import Batch, Needs, Signals, at_items, item_labels
from distil_nlp.training.weighting import Weighting


def needs_of(objectives: Sequence[Objective]) -> tuple[Needs, Needs]:
    """All that objectives ask of student and teacher."""
    student, teacher = Needs(), Needs()
    for objective in objectives:
        student |= objective.student_needs
        teacher |= objective.teacher_needs
    return student, teacher


def needs_of_a_step(
    objectives: Sequence[Objective], model: PreTrainedModel, weighting: Weighting | None = None
) -> tuple[Needs, Needs]:
    """What training asks of student and teacher.

    A vocabulary head is run by the loss, at the items alone and a few at a time, if everything that reads it agrees
    to that; a weighting that looks at each term's gradient does not.
    """
    needs = needs_of(objectives)
    if weighting is not None:
        needs = needs[0] | weighting.needs, needs[1]
        if weighting.by_term:
            return needs
    readers = [objective for objective in objectives if objective.student_needs.head]
    if not readers or not all(objective.by_item for objective in readers) or not has_plain_vocabulary_head(model):
        return needs
    student, teacher = (dataclasses.replace(n, logits=False, loss=False, vocabulary=n.head) for n in needs)
    return student, teacher


def in_use(objectives: Sequence[Objective]) -> Sequence[Objective]:
    """Those whose weight is not 0 at present; all of them, if it is for all."""
    return [objective for objective in objectives if objective.factor] or objectives


def narrowed(needs: Needs, asked: Needs) -> Needs:
    """What a step asks for, without what is not asked for at present; a head is run in the way it would be."""
    return Needs(
        needs.logits and asked.head,
        needs.loss and asked.loss,
        needs.hidden_states & asked.hidden_states,
        needs.attentions & asked.attentions,
        needs.vocabulary and asked.head,
    )


def loss_terms(
    objectives: Sequence[Objective],
    used: Sequence[Objective],
    student: Signals,
    teacher: Signals,
    batch: Batch,
    counts: Tensor,
) -> tuple[Tensor, list[Tensor]]:
    """The loss and its weighted terms, which add up to it.

    Args:
        objectives: The terms' objectives.
        used: Those that count at present; the terms of others are 0, and nothing is computed for them.
        student: Signals of the student.
        teacher: Signals of the teacher.
        batch: The batch that both have seen.
        counts: Items of the whole optimizer step, or of a batch by itself, ``[objectives]``.
    """
    numbers = [number for number, objective in enumerate(objectives) if objective in used]
    counts = torch.where(counts > 0, counts, 1)  # no items: nothing is divided by zero
    terms: dict[int, Tensor] = {}
    losses: list[Tensor] = []
    if student.vocabulary is not None:
        read = [number for number in numbers if objectives[number].student_needs.head]
        item = student.vocabulary.item
        loss, values = vocabulary_terms(
            [objectives[number] for number in read],
            [counts[number] for number in read],
            student.vocabulary,
            teacher.vocabulary or teacher.item_logits or _at_items(teacher, batch, item),
            item_labels(batch, item),
        )
        losses.append(loss)
        terms |= zip(read, values, strict=True)
    for number in numbers:
        if number not in terms:
            terms[number] = objectives[number](student, teacher, batch, counts[number])
            losses.append(terms[number])
    loss = torch.stack(losses).sum()
    return loss, [terms.get(number, loss.new_zeros(())) for number in range(len(objectives))]


def forget_step(module: nn.Module) -> None:
    """Has objectives and weighting forget what they have gathered of a step that was not finished."""
    module.zero_grad()
    for each in module.modules():
        if isinstance(each, LayerWeights | Weighting):
            each.forget()


def _at_items(signals: Signals, batch: Batch, item: str) -> Tensor | None:
    return None if signals.logits is None else at_items(signals.logits, batch, item)
