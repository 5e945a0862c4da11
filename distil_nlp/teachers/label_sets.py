"""Whether several teachers' labels go together, and which is which."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distil_nlp.errors import ModelError, near_match
from distil_nlp.functional.divergence import one_vocabulary
from distil_nlp.label_names import as_compared, unnamed
from distil_nlp.signals import Shape
from distil_nlp.teachers.base import Teacher


def shared_outputs(shapes: Sequence[Shape]) -> int:
    """Number of labels, or of the vocabulary's rows without those that pad it."""
    sizes = [shape.num_outputs for shape in shapes]
    words = shapes[0].item in ("token", "next_token")
    if len(set(sizes)) > 1 and not (words and one_vocabulary(*sizes)):
        raise ModelError(
            "The members of an ensemble have the same labels (or the same vocabulary, up to rows that pad it).",
            f"Their heads have {', '.join(f'{size:,}' for size in sizes)} outputs.",
            "Give labels=[...], the student's label names, if members know different ones.",
        )
    return min(sizes)


def shared_names(members: Sequence[Teacher]) -> tuple[str, ...] | None:
    """The names that members give their labels, which must be the same ones, in one order."""
    named = [names for member in members if (names := _names_of(member)) is not None]
    if len(set(as_compared(*named))) > 1:
        raise ModelError(
            "The members of an ensemble have the same labels, in the same order.",
            " and ".join(f"({', '.join(names)})" for names in named) + " differ.",
            "Give labels=[...], the student's label names, and they are matched by name.",
        )
    return named[0] if named else None


def find_labels(members: Sequence[Teacher], labels: Sequence[str]) -> list[Tensor]:
    """For each member, where in ``labels`` its own are."""
    columns = [label_columns(_names_of(member), labels, f"Member {n}") for n, member in enumerate(members)]
    if unknown := sorted(set(range(len(labels))) - set(torch.cat(columns).tolist())):
        raise ModelError(
            "Every label is known to some member of the ensemble.",
            f"Nobody knows {', '.join(labels[place] for place in unknown)}.",
            "Add a teacher that does, or leave the label out.",
        )
    return columns


def label_columns(names: Sequence[str] | None, labels: Sequence[str], whose: str) -> Tensor:
    """Where in ``labels`` a member's own are, by their names, ``[its labels]``.

    Args:
        names: Of the member's labels, in the order of its logits.
        labels: Those of all members.
        whose: The member, for messages.

    Raises:
        ModelError: for labels without names, and for one that is not there.
    """
    if names is None or unnamed(names):
        raise ModelError(
            "The labels of an ensemble's members are matched by name.",
            f"Those of {whose[0].lower()}{whose[1:]} have no names.",
            "Set id2label and label2id in its config, or leave `labels` out if all members have the same ones.",
        )
    theirs, known = as_compared(names, labels)
    places = {name: place for place, name in enumerate(known)}
    for name, compared in zip(names, theirs, strict=True):
        if compared not in places:
            raise ModelError(
                f"{whose} of the ensemble knows a label '{name}'.",
                near_match(name, labels),
                "Add it to `labels`, or name it in the member's config.id2label as the data does.",
            )
    return torch.tensor([places[name] for name in theirs])


def _names_of(member: Teacher) -> tuple[str, ...] | None:
    names: tuple[str, ...] | None = getattr(member, "label_names", None)
    return None if names is None or unnamed(names) else names
