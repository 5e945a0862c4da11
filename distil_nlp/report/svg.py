"""The few shapes that all pictures are drawn with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distil_nlp.report.markup import Markup, tag

Json = Mapping[str, Any]

WIDTH = 960.0
RADIUS = 7.0
KINDS = ("teacher", "student", "control", "export")

_CORNERS = {
    "teacher": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "control": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    "export": ((0, -1.2), (1.15, 0.85), (-1.15, 0.85)),
}


def svg(height: float, title: str, description: str, *children: object) -> Markup:
    """An accessible picture, as wide as its place on the page."""
    return tag(
        "svg",
        tag("title", title),
        tag("desc", description),
        *children,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        role="img",
    )


def text(x: float, y: float, *words: object, class_: str | None = None, anchor: str | None = None) -> Markup:
    """A line of text whose baseline starts at a point, or ends or is centred there."""
    return tag("text", *words, x=x, y=y, class_=class_, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def marker(kind: str, x: float, y: float) -> Markup:
    """A point whose colour and shape both say what kind of artefact it is."""
    look = f"mark {kind_class(kind)}"
    if kind not in _CORNERS:
        return tag("circle", cx=x, cy=y, r=RADIUS, class_=look)
    points = " ".join(f"{x + RADIUS * dx:.1f},{y + RADIUS * dy:.1f}" for dx, dy in _CORNERS[kind])
    return tag("polygon", points=points, class_=look)


def kind_class(kind: str) -> str:
    """The colour class of a kind of artefact."""
    return f"k-{kind}" if kind in KINDS else "k-other"


def row_label(ledger: Json, name: str) -> str:
    """What an artefact is called in words."""
    labels = (row.get("label") for row in ledger.get("rows") or [] if row["name"] == name)
    return next((str(label) for label in labels if label), name)
