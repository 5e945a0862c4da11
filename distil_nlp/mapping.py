"""Which student block follows which teacher block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Union

from distil_nlp.errors import ModelError, RecipeError, near_match

LayerPairs = list[tuple[int, int]]
MappingSpec = Union[str, Mapping[int, int], Sequence[Sequence[int]], "LayerMapping"]

STRATEGIES = ("uniform", "last")


class LayerMapping:
    """A rule that pairs student blocks with teacher blocks.

    Blocks are numbered 1..L, and from the end -1..-L.

    - ``"uniform"``: student block i of M follows teacher block ``round(i * N / M)`` of N. Depths need not divide.
    - ``"last"``: student block i follows teacher block ``i + N - M``, the last M of the teacher.
    - explicit: ``{1: 2, 3: 6}`` or ``[[1, 2], [3, 6]]``, student first.

    Args:
        spec: A strategy's name or explicit pairs.

    Raises:
        RecipeError: for an unknown strategy or malformed pairs.

    References:
        Jiao et al. (2020), arXiv:1909.10351, section 4.4: "uniform" and "top" (here ``last``).
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
                "Write a strategy (uniform, last), {1: 2, 3: 6} or [[1, 2], [3, 6]], student first.",
            )
        self.spec = [(pair[0], pair[1]) for pair in pairs]

    def resolve(self, student_layers: int, teacher_layers: int) -> LayerPairs:
        """Gives the pairs for two depths, in the student's order.

        Raises:
            ModelError: for a block that does not exist, or a student deeper than its teacher where the strategy
                needs it not to be.
        """
        if isinstance(self.spec, list):
            return sorted(
                (_existing(s, student_layers, "student"), _existing(t, teacher_layers, "teacher")) for s, t in self.spec
            )
        if student_layers > teacher_layers:
            raise ModelError(
                f"The '{self.spec}' layer mapping gives each student block a teacher block of its own.",
                f"The student has {student_layers} blocks, the teacher {teacher_layers}.",
                "Give the pairs explicitly, as {student: teacher}.",
            )
        if self.spec == "last":
            return [(i, i + teacher_layers - student_layers) for i in range(1, student_layers + 1)]
        return list(enumerate(uniform_layers(student_layers, teacher_layers), start=1))

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


def _existing(block: int, total: int, role: str) -> int:
    number = block if block > 0 else total + 1 + block
    if block == 0 or not 1 <= number <= total:
        raise ModelError(
            f"The layer mapping names {role} block {block}.",
            f"The {role} has {total} blocks, numbered 1 to {total} (or -1 to -{total} from the end).",
            "Correct the mapping.",
        )
    return number
