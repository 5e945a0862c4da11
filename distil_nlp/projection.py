"""From the student's width to the teacher's."""

from __future__ import annotations

from torch import Tensor, nn

from distil_nlp.errors import ModelError, RecipeError, near_match

KINDS = ("auto", "linear", "none")


class Projection(nn.Module):
    """Maps each matched student representation to the teacher's width.

    - ``"auto"``: ``none`` where the widths agree, ``linear`` otherwise.
    - ``"linear"``: ``W h + b``, one matrix for each pair of layers.
    - ``"none"``: the representations are compared as they are.

    Its parameters belong to the objective: trained, clipped, synchronised and checkpointed with the student, and
    no part of it.

    Args:
        kind: One of the above.
        student_width: Width of the student's representations.
        teacher_width: Width of the teacher's.
        count: Number of pairs.

    Raises:
        RecipeError: for an unknown kind.
        ModelError: if the widths differ and ``kind`` is ``"none"``.

    References:
        Romero et al. (2015), arXiv:1412.6550, section 2.2; Jiao et al. (2020), arXiv:1909.10351, eq. 8, which
        shares one matrix among all layers.
    """

    def __init__(self, kind: str, *, student_width: int, teacher_width: int, count: int) -> None:
        super().__init__()
        if kind not in KINDS:
            raise RecipeError(f"Unknown projection '{kind}'.", near_match(kind, KINDS))
        if kind == "none" and student_width != teacher_width:
            raise ModelError(
                "'projection: none' compares representations as they are.",
                f"The student is {student_width} wide, the teacher {teacher_width}.",
                "Use 'projection: linear' (or leave it out), or a student as wide as its teacher.",
            )
        linear = kind == "linear" or (kind == "auto" and student_width != teacher_width)
        self.layers = nn.ModuleList(nn.Linear(student_width, teacher_width) for _ in range(count if linear else 0))

    def forward(self, hidden_state: Tensor, pair: int) -> Tensor:
        """Projects the student's side of pair number ``pair``: ``[..., student_width] -> [..., teacher_width]``."""
        if not len(self.layers):
            return hidden_state
        projected: Tensor = self.layers[pair](hidden_state.float())
        return projected
