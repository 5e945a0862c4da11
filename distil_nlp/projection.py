"""From one model's width to the other's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distil_nlp.errors import ModelError, RecipeError, near_match
from distil_nlp.signals import Shape

KINDS = ("auto", "linear", "mlp", "none", "orthogonal")
SIDES = ("student", "teacher")

ProjectionSpec = Union[str, Mapping[str, Any], "ProjectionSettings"]


@dataclass(frozen=True)
class ProjectionSettings:
    """What is projected, and how; in a recipe ``linear`` or ``{kind: linear, shared: true, side: student}``.

    Attributes:
        kind: One of :data:`KINDS` (:class:`Projection` says what each is).
        shared: Whether all pairs of layers have one map, or each its own.
        side: Whether the student's representations go to the teacher's width, or the teacher's to the student's.

    Raises:
        RecipeError: for values that are unknown or do not go together.
    """

    kind: str = "auto"
    shared: bool = False
    side: str = "student"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise RecipeError(f"Unknown projection '{self.kind}'.", near_match(f"{self.kind}", KINDS))
        if self.side not in SIDES:
            raise RecipeError(f"projection.side is '{self.side}'.", near_match(f"{self.side}", SIDES))
        if not isinstance(self.shared, bool):
            raise RecipeError(f"projection.shared is {self.shared!r}.", "It is true or false.", "Write 'shared: true'.")
        if self.side == "teacher" and self.kind in ("linear", "mlp"):
            raise RecipeError(
                f"A trained projection of kind '{self.kind}' was asked for on the teacher's side.",
                "It would learn to map every input to the same point, which any student can follow.",
                "Use 'kind: orthogonal', which cannot, or 'side: student'.",
            )

    @classmethod
    def read(cls, spec: ProjectionSpec) -> ProjectionSettings:
        """Reads what a recipe says.

        Raises:
            RecipeError: for a name or a value that is unknown.
        """
        if isinstance(spec, ProjectionSettings):
            return spec
        if isinstance(spec, str):
            return cls(kind=spec)
        names = [field.name for field in fields(cls)]
        if not isinstance(spec, Mapping):
            raise RecipeError(
                f"projection is {spec!r}.",
                "It is one of the kinds, or a mapping.",
                f"Write one of {', '.join(KINDS)}, or {{kind: linear, shared: true, side: student}}.",
            )
        for name in spec:
            if name not in names:
                raise RecipeError(f"projection has no '{name}'.", near_match(f"{name}", names))
        return cls(**spec)


class Projection(nn.Module):
    r"""Brings each matched pair of representations to one width.

    - ``"auto"``: ``none`` where the widths agree; otherwise ``linear``, or ``orthogonal`` on the teacher's side.
    - ``"none"``: the representations are compared as they are.
    - ``"linear"``: :math:`W h + b`.
    - ``"mlp"``: :math:`W_2 \, GELU(W_1 h + b_1) + b_2`, inside as wide as the wider of the two.
    - ``"orthogonal"``: :math:`Q h` with orthonormal columns (rows, if the target is narrower), so that lengths and
      angles cannot be made up by the map: what is left to learn is left to the student.

    The usual side is the student's: the teacher's representations stay what they are. On the teacher's side the
    target moves with the map. A free map would shrink it to a constant, so only ``orthogonal`` is allowed there: it
    keeps the target's variance, in as many directions as the student is wide. It may still choose directions in
    which the teacher says little, so prefer the student's side unless the projected teacher is what you want.

    Its parameters belong to the objective: trained, clipped, synchronised and checkpointed with the student, and
    no part of it.

    Args:
        spec: A kind, or kind, ``shared`` and ``side`` (:class:`ProjectionSettings`).
        student_width: Width of the student's representations.
        teacher_width: Width of the teacher's.
        count: Number of pairs.

    Raises:
        RecipeError: for an unknown kind.
        ModelError: if the widths differ and the kind is ``"none"``.

    References:
        Romero et al. (2015), arXiv:1412.6550, section 2.2; Jiao et al. (2020), arXiv:1909.10351, eq. 8, whose code
        shares one matrix among all layers; Miles, Elezi, Deng (2024), arXiv:2403.06213, for orthogonal maps (there of
        the student's features, kept so by a matrix exponential, and with a normalisation for each task; here by a QR
        decomposition, and without).
    """

    def __init__(self, spec: ProjectionSpec = "auto", *, student_width: int, teacher_width: int, count: int) -> None:
        super().__init__()
        settings = ProjectionSettings.read(spec)
        if settings.kind == "none" and student_width != teacher_width:
            raise ModelError(
                "'projection: none' compares representations as they are.",
                f"The student is {student_width} wide, the teacher {teacher_width}.",
                "Use 'projection: linear' (or leave it out), or a student as wide as its teacher.",
            )
        self.side, kind = settings.side, settings.kind
        widths = (student_width, teacher_width) if self.side == "student" else (teacher_width, student_width)
        if kind == "auto":
            kind = "none" if student_width == teacher_width else "linear" if self.side == "student" else "orthogonal"
        self.serves = (student_width, teacher_width, min(count, 1) if settings.shared else count)
        number = 0 if kind == "none" else min(count, 1) if settings.shared else count
        self.layers = nn.ModuleList(_make(kind, *widths) for _ in range(number))

    @classmethod
    def between(
        cls,
        student: Shape,
        teacher: Shape,
        spec: ProjectionSpec = "auto",
        *,
        count: int,
        known: Projection | None = None,
    ) -> Projection:
        """One for the hidden states of two models: ``known``, if that serves such widths and as many pairs."""
        made = cls(spec, student_width=student.width, teacher_width=teacher.width, count=count)
        return known if known is not None and known.serves == made.serves else made

    def match(self, student: Tensor, teacher: Tensor, pair: int) -> tuple[Tensor, Tensor]:
        """Brings pair number ``pair`` to one width.

        Args:
            student: ``[..., student_width]``.
            teacher: ``[..., teacher_width]``.
            pair: Counted from 0.

        Returns:
            Both, of equal width; the side that is not projected as it came.
        """
        if self.side == "teacher":
            return student, self(teacher, pair)
        return self(student, pair), teacher

    def forward(self, hidden_state: Tensor, pair: int) -> Tensor:
        """Projects the side that is projected (the student's, unless ``side`` says otherwise).

        Args:
            hidden_state: ``[..., student_width]`` or, on the teacher's side, ``[..., teacher_width]``.
            pair: Counted from 0.

        Returns:
            ``[..., width of the other side]``, in the parameters' dtype; as it came where there is nothing to do.
        """
        if not len(self.layers):
            return hidden_state
        layer = self.layers[pair % len(self.layers)]
        projected: Tensor = layer(hidden_state.to(next(layer.parameters()).dtype))
        return projected


class Orthogonal(nn.Module):
    """``Q h``, where Q has orthonormal columns, or orthonormal rows if ``out_width`` is the smaller.

    The trained parameter is any matrix of the same shape; Q is the orthonormal factor of its QR decomposition, with
    the signs that make it unique. Weight decay, which shortens the parameter, does not change Q.

    Args:
        in_width: Width of what is mapped.
        out_width: Width that it is mapped to.
    """

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(out_width, in_width)))

    @property
    def matrix(self) -> Tensor:
        """Q, ``[out_width, in_width]``."""
        wide = self.weight.shape[0] < self.weight.shape[1]
        factor, triangle = torch.linalg.qr(self.weight.T if wide else self.weight)
        factor = factor * torch.where(triangle.diagonal() < 0, -1.0, 1.0).to(factor.dtype)
        matrix: Tensor = factor.T if wide else factor
        return matrix

    def forward(self, vectors: Tensor) -> Tensor:
        """Maps ``[..., in_width]`` to ``[..., out_width]``."""
        return F.linear(vectors, self.matrix)


def _make(kind: str, in_width: int, out_width: int) -> nn.Module:
    if kind == "orthogonal":
        return Orthogonal(in_width, out_width)
    if kind == "linear":
        return nn.Linear(in_width, out_width)
    hidden = max(in_width, out_width)
    return nn.Sequential(nn.Linear(in_width, hidden), nn.GELU(), nn.Linear(hidden, out_width))
