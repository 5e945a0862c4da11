"""Places labels beside points so that none covers another label, a point or its whisker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]

LINE_HEIGHT = 18.0
LEADER_FROM = 12.0  # a label that distance counts this much needs a line to its point


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Shared area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)

    def outside(self, frame: Box) -> float:
        """Pixels by which this sticks out of ``frame``."""
        return (
            max(frame.left - self.left, 0.0)
            + max(self.right - frame.right, 0.0)
            + max(frame.top - self.top, 0.0)
            + max(self.bottom - frame.bottom, 0.0)
        )


@dataclass(frozen=True)
class Placed:
    """Where a label went, and whether it is so far from its point that it needs a line."""

    box: Box
    leader: bool


def text_width(text: str, size: float = 14.0) -> float:
    """About how wide a text is in a system sans-serif font, rather too wide than too narrow."""
    return size * sum(0.36 if c in "iljtf.,:;|' 1" else 0.8 if c.isupper() or c in "mw%@" else 0.62 for c in text)


def place_labels(
    points: Sequence[Point],
    widths: Sequence[float],
    lines: Sequence[Box],
    frame: Box,
    radius: float = 8.0,
) -> list[Placed]:
    """Chooses for each point, in order, the nearest free place for a label of that width.

    Args:
        points: Centres of the markers.
        widths: Widths of the labels.
        lines: Thin boxes that a label would rather not cross.
        frame: What it should stay within.
        radius: Of the markers.
    """
    marks = [Box(x - radius, y - radius, x + radius, y + radius) for x, y in points]
    placed: list[Placed] = []
    for point, width in zip(points, widths, strict=True):
        others = [mark for mark, centre in zip(marks, points, strict=True) if centre != point]

        def cost(place: tuple[Box, float], start: Point = point, others: list[Box] = others) -> float:
            box, distance = place
            covered = sum(box.overlap(other) for other in [*marks, *(label.box for label in placed)])
            crossed = sum(box.overlap(line) > 0 for line in lines)
            hidden = sum(_crosses(start, box, other) for other in others)
            return distance + covered + 25 * crossed + 40 * hidden + 40 * box.outside(frame)

        box, distance = min(_candidates(*point, width, radius), key=cost)
        placed.append(Placed(box, leader=distance >= LEADER_FROM))
    return placed


def leader_end(point: Point, box: Box) -> Point:
    """Where a line from a point meets its label."""
    return min(max(point[0], box.left - 2), box.right + 2), (box.top + box.bottom) / 2


def _crosses(start: Point, box: Box, other: Box) -> bool:
    """Whether the line from a point to its label runs over another point."""
    end = leader_end(start, box)
    along = [(start[0] + (end[0] - start[0]) * k / 8, start[1] + (end[1] - start[1]) * k / 8) for k in range(9)]
    return any(other.left < x < other.right and other.top < y < other.bottom for x, y in along)


def _candidates(x: float, y: float, width: float, radius: float) -> list[tuple[Box, float]]:
    """Boxes beside, above and below a point, and further off, each with what its distance counts."""
    half = LINE_HEIGHT / 2
    away = radius + 4
    centres = [(x, y - away - half, 4.0), (x, y + away + half, 5.0)]
    for lift in range(8):
        for direction in (-1, 1):
            for side, cost in ((1, 0.0), (-1, 2.0)):
                centre = x + side * (away + 7 * min(lift, 2) + width / 2)
                centres.append((centre, y + direction * LINE_HEIGHT * lift, cost + 12.0 * lift))
    return [
        (Box(centre - width / 2, middle - half, centre + width / 2, middle + half), cost)
        for centre, middle, cost in centres
    ]
