"""Pictures of what was gained: quality over size, and the student against its controls."""

from __future__ import annotations

from collections.abc import Sequence

from distil_nlp.report import numbers
from distil_nlp.report.axes import Scale, tick_label
from distil_nlp.report.labels import Box, Placed, Point, leader_end, place_labels, text_width
from distil_nlp.report.markup import Markup, join, tag
from distil_nlp.report.style import SVG_STYLE
from distil_nlp.report.svg import RADIUS, WIDTH, Json, kind_class, line, marker, row_label, svg, text

HEIGHT = 440.0
PLOT = Box(left=70.0, top=24.0, right=WIDTH - 20.0, bottom=380.0)


def size_quality_svg(ledger: Json, *, standalone: bool = False) -> Markup | None:
    """Quality over size of the weights, with whiskers where an interval is known; None without any size.

    Args:
        ledger: The ledger, as read from ``report.json``.
        standalone: With its own style and background, to be a file by itself.
    """
    metric = str(ledger["metric"])
    rows = [row for row in ledger["rows"] if row.get("size_mb") and row["metrics"].get(metric) is not None]
    if not rows:
        return None
    sizes = [row["size_mb"] for row in rows]
    across = Scale(min(sizes) * 0.6, max(sizes) * 1.7, PLOT.left, PLOT.right, log=True)
    up = Scale(*_quality_range(rows, metric), PLOT.bottom, PLOT.top)
    points = _side_by_side([(across(row["size_mb"]), up(row["metrics"][metric])) for row in rows])
    whiskers = [_whisker_box(row, x, up) for row, (x, _) in zip(rows, points, strict=True)]
    captions = [(str(row["label"]), numbers.score(row["metrics"][metric])) for row in rows]
    widths = [text_width(f"{name} {value}") for name, value in captions]
    level = [_level(up(row["metrics"][metric])) for row in rows if row["name"] == "teacher"]
    placed = place_labels(points, widths, [*level, *(box for box in whiskers if box)], PLOT, RADIUS)
    picture = join(
        _frame(across, up, metric),
        *(line(box.left, box.top + 1, box.right, box.top + 1, "reference") for box in level),
        *(_whisker(box, row["kind"]) for box, row in zip(whiskers, rows, strict=True) if box),
        *(_leader(point, place.box) for point, place in zip(points, placed, strict=True) if place.leader),
        *(_label(point, place, *words) for point, place, words in zip(points, placed, captions, strict=True)),
        *(marker(row["kind"], x, y) for row, (x, y) in zip(rows, points, strict=True)),
    )
    if standalone:
        paper = tag("rect", x=0, y=0, width=WIDTH, height=HEIGHT, class_="paper")
        picture = join(tag("style", Markup(SVG_STYLE)), paper, picture)
    described = [
        f"{name}: {value} at {numbers.megabytes(size)} MB" for (name, value), size in zip(captions, sizes, strict=True)
    ]
    return svg(HEIGHT, f"{metric} over size of the weights", "; ".join(described), picture)


def gain_svg(ledger: Json) -> Markup | None:
    """The student's gain over each control with its interval, against zero; None without a control."""
    gains = list((ledger.get("gain_over_control") or {}).items())
    if not gains:
        return None
    points = all(gain["points"] for _, gain in gains)
    scale, unit = (100, "points") if points else (1, str(ledger["metric"]))
    ends = [0.0, *(scale * gain[end] for _, gain in gains for end in ("low", "high"))]
    room = 0.08 * (max(ends) - min(ends)) or 0.1
    bottom = 16 + 40.0 * len(gains)
    axis = Scale(min(ends) - room, max(ends) + room, 240.0, WIDTH - 180)
    parts = [
        join(
            line(axis(tick), 10, axis(tick), bottom, "grid" if tick else "zero"),
            text(axis(tick), bottom + 20, _signed_tick(tick), anchor="middle", class_="tick"),
        )
        for tick in axis.ticks(8)
    ]
    for place, (name, gain) in enumerate(gains):
        y = 13 + 40 * (place + 0.5)
        low, high, at = (axis(scale * gain[end]) for end in ("low", "high", "difference"))
        amount = numbers.gain(gain["difference"], points)
        words = f"{amount}, {'beyond' if gain['beyond_noise'] else 'within'} noise"
        parts += [
            text(axis.start - 16, y + 5, f"over {row_label(ledger, name)}", anchor="end"),
            line(low, y, high, y, "whisker wide k-student"),
            marker("student", at, y),
            text(axis.stop + 16, y + 5, words, class_="name"),
        ]
    confidence = 100 * gains[0][1]["confidence"]
    axis_title = f"Gain of the student, {unit}, with its {confidence:g} % interval"
    parts.append(text((axis.start + axis.stop) / 2, bottom + 42, axis_title, anchor="middle", class_="tick"))
    return svg(bottom + 52, "Gain over control", " ".join(gain["words"] for _, gain in gains), *parts)


def _quality_range(rows: Sequence[Json], metric: str) -> tuple[float, float]:
    """Zoomed to the figures and their intervals, with some air."""
    values = [row["metrics"][metric] for row in rows]
    for interval in (row.get("interval") for row in rows):
        values += [interval["low"], interval["high"]] if interval else []
    air = 0.12 * (max(values) - min(values)) or 0.05 * abs(values[0]) or 0.05
    return min(values) - air, max(values) + air


def _side_by_side(points: Sequence[Point]) -> list[Point]:
    """Moves points of the same size apart, so that none hides another."""
    near = [[other for other, (x, _) in enumerate(points) if abs(x - here) < 8] for here, _ in points]
    gap = 2.4 * RADIUS
    return [
        (x + gap * (group.index(index) - (len(group) - 1) / 2), y)
        for index, ((x, y), group) in enumerate(zip(points, near, strict=True))
    ]


def _frame(across: Scale, up: Scale, metric: str) -> Markup:
    middle = (PLOT.left + PLOT.right) / 2
    return join(
        *(line(PLOT.left, up(tick), PLOT.right, up(tick), "grid") for tick in up.ticks(6)),
        *(text(PLOT.left - 10, up(t) + 5, tick_label(t), anchor="end", class_="tick") for t in up.ticks(6)),
        *(line(across(t), PLOT.bottom, across(t), PLOT.bottom + 6, "axis") for t in across.ticks(7)),
        *(text(across(t), PLOT.bottom + 24, tick_label(t), anchor="middle", class_="tick") for t in across.ticks(7)),
        line(PLOT.left, PLOT.bottom, PLOT.right, PLOT.bottom, "axis"),
        text(middle, HEIGHT - 10, "Size of the weights, MB (log scale)", anchor="middle", class_="tick"),
        text(PLOT.left - 60, 14, metric, class_="tick"),
    )


def _level(y: float) -> Box:
    return Box(PLOT.left, y - 1, PLOT.right, y + 1)


def _whisker_box(row: Json, x: float, up: Scale) -> Box | None:
    interval = row.get("interval")
    return Box(x - 3, up(interval["high"]), x + 3, up(interval["low"])) if interval else None


def _whisker(box: Box, kind: str) -> Markup:
    look, x = f"whisker {kind_class(kind)}", (box.left + box.right) / 2
    ends = (line(box.left, y, box.right, y, look) for y in (box.top, box.bottom))
    return join(line(x, box.top, x, box.bottom, look), *ends)


def _leader(point: Point, box: Box) -> Markup:
    return line(*point, *leader_end(point, box), "leader")


def _label(point: Point, place: Placed, name: str, value: str) -> Markup:
    """Name and value, flush with the side that faces the point."""
    box, baseline = place.box, (place.box.top + place.box.bottom) / 2 + 5
    words = (tag("tspan", name, class_="name"), " ", tag("tspan", value, class_="value"))
    if box.left > point[0]:
        return text(box.left, baseline, *words, class_="label")
    if box.right < point[0]:
        return text(box.right, baseline, *words, class_="label", anchor="end")
    return text((box.left + box.right) / 2, baseline, *words, class_="label", anchor="middle")


def _signed_tick(value: float) -> str:
    return f"{value:+.4g}".replace("-", numbers.MINUS) if value else "0"
