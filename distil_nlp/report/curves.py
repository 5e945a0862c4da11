"""Loss curves: one panel for each training run, one line for each term."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from distil_nlp.report.axes import Scale, tick_label
from distil_nlp.report.labels import text_width
from distil_nlp.report.markup import Markup, join, tag
from distil_nlp.report.svg import WIDTH, Json, line, row_label, svg, text

HEIGHT = 250.0
GAP = 40.0
COLUMNS = 2
STYLES = 7
LOG_FROM = 20.0
"""A panel whose values span more than this factor has a log scale."""

Points = list[tuple[int, float]]


def loss_curves_svg(ledger: Json) -> Markup | None:
    """Small multiples, a panel per run, the same look for a term in all of them; None without curves."""
    curves = [(str(c["run"]), str(c["term"]), _points(c)) for c in ledger.get("loss_curves") or []]
    curves = [curve for curve in curves if curve[2]]
    if not curves:
        return None
    terms = sorted(dict.fromkeys(term for _, term, _ in curves), key=lambda term: term != "loss")
    looks = {term: f"line s-{place % STYLES}" for place, term in enumerate(terms)}
    runs = list(dict.fromkeys(run for run, _, _ in curves))
    legend, top = _legend(looks)
    width = (WIDTH - GAP * (COLUMNS - 1)) / COLUMNS if len(runs) > 1 else WIDTH
    panels = [
        _panel(
            row_label(ledger, run),
            [(looks[term], points) for name, term, points in curves if name == run],
            (place % COLUMNS) * (width + GAP),
            top + (place // COLUMNS) * (HEIGHT + 20),
            width,
        )
        for place, run in enumerate(runs)
    ]
    height = top + math.ceil(len(runs) / COLUMNS) * (HEIGHT + 20)
    described = "; ".join(f"{run}, {term}: {p[0][1]:.4g} to {p[-1][1]:.4g}" for run, term, p in curves)
    return svg(height, "Loss curves", described, legend, *panels)


def term_words(term: str) -> str:
    """A term as the legend says it."""
    return "total loss" if term == "loss" else term


def _points(curve: Json) -> Points:
    pairs = zip(curve["steps"], curve["values"], strict=True)
    return [(step, value) for step, value in pairs if value is not None]


def _legend(looks: dict[str, str]) -> tuple[Markup, float]:
    parts: list[Markup] = []
    x, y = 0.0, 18.0
    for term, look in looks.items():
        width = 46 + text_width(term_words(term)) + 26
        if x + width > WIDTH:
            x, y = 0.0, y + 24
        parts += [line(x, y - 5, x + 34, y - 5, look), text(x + 42, y, term_words(term))]
        x += width
    return join(*parts), y + 16


def _panel(run: str, lines: Sequence[tuple[str, Points]], left: float, top: float, width: float) -> Markup:
    steps = [step for _, points in lines for step, _ in points]
    values = [value for _, points in lines for _, value in points]
    log = min(values) > 0 and max(values) / min(values) > LOG_FROM
    if log:
        low, high = min(values) / 1.25, max(values) * 1.25
    else:
        low, high = min(0.0, min(values)), max(values) * 1.06 if max(values) > 0 else 1.0
    right, floor = left + width, top + HEIGHT - 44
    across = Scale(min(0, *steps), max(max(steps), 1), left + 54, right - 16)
    up = Scale(low, high, floor, top + 36, log=log)
    return join(
        text(left, top + 20, run, class_="name"),
        text(right - 16, top + 20, "log scale" if log else None, anchor="end", class_="tick"),
        *(line(across.start, up(tick), across.stop, up(tick), "grid") for tick in up.ticks(5)),
        *(text(across.start - 8, up(t) + 5, tick_label(t), anchor="end", class_="tick") for t in up.ticks(5)),
        line(across.start, floor, across.stop, floor, "axis"),
        *(text(across(t), floor + 20, tick_label(t), anchor="middle", class_="tick") for t in across.ticks(6)),
        text((across.start + across.stop) / 2, floor + 38, "step", anchor="middle", class_="tick"),
        *(_curve([(across(step), up(value)) for step, value in points], look) for look, points in lines),
    )


def _curve(pixels: Sequence[tuple[float, float]], look: str) -> Markup:
    if len(pixels) == 1:
        return tag("circle", cx=pixels[0][0], cy=pixels[0][1], r=3.5, class_=look.replace("line", "dot"))
    return tag("path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in _drawn(pixels)), class_=look)


def _drawn(pixels: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """The highest and the lowest of each pixel's column, however many steps it has."""
    for _, column in groupby(pixels, key=lambda pixel: int(pixel[0])):
        points = list(column)
        ends = {min(points, key=lambda point: point[1]), max(points, key=lambda point: point[1])}
        yield from sorted(ends, key=points.index)
