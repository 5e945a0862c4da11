"""Which student block follows which teacher block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Union

from distil_nlp.errors import ModelError, RecipeError, near_match
from distil_nlp.signals import Shape

LayerPairs = list[tuple[int, int]]
MappingSpec = Union[str, Mapping[int, int], Sequence[Sequence[int]], "LayerMapping"]

_KEPT = "The 'kept' layer mapping gives each student block the teacher block that it was made from."
STRATEGIES = ("uniform", "first", "last", "skip", "kept", "cka", "attention", "emd")
WEIGHTED = frozenset({"attention", "emd"})  # pair all with all, and learn how much each pair counts


class LayerMapping:
    """A rule that pairs student blocks with teacher blocks.

    Blocks are numbered 1..L, and from the end -1..-L.

    - ``"uniform"``: student block i of M follows teacher block ``round(i * N / M)`` of N. Depths need not divide.
    - ``"first"``: student block i follows teacher block i.
    - ``"last"``: student block i follows teacher block ``i + N - M``, the last M of the teacher.
    - ``"skip"``: student block i follows teacher block ``i * k``, every k-th from the start with ``k = N // M``. Where
      depths divide it is ``uniform``; where not, the teacher's uppermost blocks are left out.
    - ``"kept"``: student block i follows the teacher block that it was made from, by the ``kept_layers`` that
      :func:`~distil_nlp.students.build_student` notes in the student's configuration. For students whose blocks are not
      at even distances. The teacher may be any model on the way from the first one to the student.
    - ``"cka"``: chosen for two given models by how alike their hidden states are, before training starts
      (:func:`distil_nlp.training.choose_layers`); the choice is explicit pairs.
    - ``"attention"``, ``"emd"``: every student block follows every teacher block, and how much each pair counts is
      learned (:class:`~distil_nlp.layer_weights.LayerAttention`, :class:`~distil_nlp.layer_weights.EarthMover`). A
      step costs as much as ``M * N`` pairs do.
    - explicit: ``{1: 2, 3: 6}`` or ``[[1, 2], [3, 6]]``, student first.

    Args:
        spec: A strategy's name or explicit pairs.

    Raises:
        RecipeError: for an unknown strategy or malformed pairs.

    References:
        Jiao et al. (2020), arXiv:1909.10351, "effects of mapping function": "uniform", "top" (here ``last``) and
        "bottom" (``first``). Sun et al. (2019), arXiv:1908.09355, section 3.2: "PKD-Skip" (here ``skip``) and
        "PKD-Last". There the student's last block follows none, since its prediction does; here it does.
    """

    def __init__(self, spec: MappingSpec = "uniform") -> None:
        if isinstance(spec, LayerMapping):
            spec = spec.spec
        if isinstance(spec, str):
            if spec not in STRATEGIES:
                raise RecipeError(f"Unknown layer mapping '{spec}'.", near_match(spec, STRATEGIES))
            self.spec: str | LayerPairs = spec
            return
        pairs = list(spec.items()) if isinstance(spec, Mapping) else [tuple(pair) for pair in spec]
        well_formed = all(len(pair) == 2 and all(isinstance(block, int) for block in pair) for pair in pairs)
        if not pairs or not well_formed:
            raise RecipeError(
                "A layer mapping pairs student blocks with teacher blocks.",
                f"Found {spec!r}.",
                f"Write a strategy ({', '.join(STRATEGIES)}), {{1: 2, 3: 6}} or [[1, 2], [3, 6]], student first.",
            )
        self.spec = [(pair[0], pair[1]) for pair in pairs]

    @property
    def weighted(self) -> bool:
        """Whether all blocks are paired with all, and the weight of each pair is learned."""
        return self.spec in WEIGHTED if isinstance(self.spec, str) else False

    @property
    def to_be_chosen(self) -> bool:
        """Whether the pairs depend on the two models, and have not been chosen."""
        return self.spec == "cka"

    def resolve(self, student_layers: int, teacher_layers: int, kept_layers: Sequence[int] | None = None) -> LayerPairs:
        """Gives the pairs for two depths, in the student's order.

        Args:
            student_layers: The student's depth.
            teacher_layers: The teacher's depth.
            kept_layers: From which teacher block each student block was made, if that is known.

        Raises:
            ModelError: for a block that does not exist, a student deeper than its teacher where the strategy
                needs it not to be, or pairs that have not been chosen.
        """
        if isinstance(self.spec, list):
            return sorted(
                (_existing(s, student_layers, "student"), _existing(t, teacher_layers, "teacher")) for s, t in self.spec
            )
        if self.to_be_chosen:
            raise ModelError(
                "The 'cka' layer mapping is chosen by comparing the two models on real batches.",
                "That has not been done.",
                "From Python, give mapping=distil_nlp.training.choose_layers(student, teacher, batches).",
            )
        if self.spec == "kept":
            return LayerMapping(_kept(student_layers, kept_layers)).resolve(student_layers, teacher_layers)
        if self.weighted:
            return [(s, t) for s in range(1, student_layers + 1) for t in range(1, teacher_layers + 1)]
        if student_layers > teacher_layers:
            raise ModelError(
                f"The '{self.spec}' layer mapping gives each student block a teacher block of its own.",
                f"The student has {student_layers} blocks, the teacher {teacher_layers}.",
                "Give the pairs explicitly, as {student: teacher}.",
            )
        blocks = {
            "uniform": uniform_layers(student_layers, teacher_layers),
            "first": range(1, student_layers + 1),
            "last": range(teacher_layers - student_layers + 1, teacher_layers + 1),
            "skip": [i * (teacher_layers // student_layers) for i in range(1, student_layers + 1)],
        }
        return list(enumerate(blocks[self.spec], start=1))

    def __repr__(self) -> str:
        return f"LayerMapping({self.spec!r})"


def uniform_layers(count: int, total: int) -> list[int]:
    """Picks ``count`` of ``total`` blocks at even distances, the last among them.

    >>> uniform_layers(3, 6)
    [2, 4, 6]
    >>> uniform_layers(5, 12)
    [2, 5, 7, 10, 12]
    """
    return [(2 * i * total + count) // (2 * count) for i in range(1, count + 1)]


def kept_in(student: Shape, teacher: Shape) -> list[int] | None:
    """From which block of a teacher each of a student's was made, where both may be made from one model.

    Returns:
        The teacher's blocks, numbered from 1; None if the student's configuration does not say.

    Raises:
        ModelError: if the student was made from another model, or from blocks that the teacher lacks.
    """
    if student.kept_layers is None:
        return None
    ours, total = student.kept_layers
    theirs, teacher_total = teacher.kept_layers or (range(1, teacher.num_layers + 1), teacher.num_layers)
    if total != teacher_total or not set(ours) <= set(theirs):
        raise ModelError(
            _KEPT,
            f"The student has {list(ours)} of a model's {total} blocks, the teacher {list(theirs)} of {teacher_total}.",
            "Give the teacher that it was made from, or the pairs explicitly, as {student: teacher}.",
        )
    return [theirs.index(block) + 1 for block in ours]


def _kept(student_layers: int, kept_layers: Sequence[int] | None) -> LayerPairs:
    if kept_layers is None or len(kept_layers) != student_layers:
        raise ModelError(
            _KEPT,
            f"The student has {student_layers} blocks, and its configuration "
            + ("does not say from which they were made." if kept_layers is None else f"says it of {len(kept_layers)}."),
            "Make it with distil_nlp.build_student, or give the pairs explicitly, as {student: teacher}.",
        )
    return list(enumerate(kept_layers, start=1))


def _existing(block: int, total: int, role: str) -> int:
    number = block if block > 0 else total + 1 + block
    if block == 0 or not 1 <= number <= total:
        raise ModelError(
            f"The layer mapping names {role} block {block}.",
            f"The {role} has {total} blocks, numbered 1 to {total} (or -1 to -{total} from the end).",
            "Correct the mapping.",
        )
    return number
