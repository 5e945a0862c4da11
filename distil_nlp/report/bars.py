"""Pictures of latency and of the layer map."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from distil_nlp.report import numbers
from distil_nlp.report.axes import Scale
from distil_nlp.report.labels import text_width
from distil_nlp.report.markup import Markup, join, tag
from distil_nlp.report.svg import WIDTH, Json, kind_class, line, svg, text

BAR = 30.0
GAP = 36.0
COLUMNS = 2
BOX = 44.0


def latency_svg(ledger: Json) -> Markup | None:
    """Bars to p50 and a tick at p95, a panel for each batch size and number of threads; None without a bench.

    Panels of one batch size share their scale, and two of them a line.
    """
    timed = [row for row in ledger["rows"] if row.get("latencies")]
    settings = sorted({_setting(entry) for row in timed for entry in row["latencies"]})
    if not settings:
        return None
    threads = sorted({threads for _, threads in settings})
    lines = [threads[start : start + COLUMNS] for start in range(0, len(threads), COLUMNS)]
    panel_width = (WIDTH - GAP * (len(lines[0]) - 1)) / len(lines[0])
    panels: list[Markup] = []
    top = 0.0
    for size, beside in product(sorted({batch_size for batch_size, _ in settings}), lines):
        panels += [
            _panel(timed, (size, count), column * (panel_width + GAP), top, panel_width)
            for column, count in enumerate(beside)
        ]
        top += 60 + BAR * len(timed)
    return svg(top - 16, "Latency", _latency_words(timed), *panels)


def _panel(timed: Sequence[Json], setting: tuple[int, int], left: float, top: float, width: float) -> Markup:
    names = max(text_width(str(row["label"])) for row in timed) + 14
    entries = [entry for row in timed for entry in row["latencies"] if entry["batch_size"] == setting[0]]
    slowest = max(entry["p95"] for entry in entries)
    figures = max(text_width(" ".join(_figures(entry))) for entry in entries)
    axis = Scale(0.0, slowest or 1.0, left + names, left + width - figures - 12)
    parts = [text(left, top + 20, _setting_words(*setting), class_="name")]
    for place, row in enumerate(timed):
        y = top + 36 + BAR * place
        parts.append(text(axis.start - 12, y + 16, row["label"], anchor="end"))
        entry = next((entry for entry in row["latencies"] if _setting(entry) == setting), None)
        if entry is None:
            parts.append(text(axis.start, y + 16, "not measured", class_="value"))
            continue
        parts.append(_bar(entry, kind_class(row["kind"]), axis, y))
    return join(*parts)


def _bar(entry: Json, look: str, axis: Scale, y: float) -> Markup:
    p50, p95 = axis(entry["p50"]), axis(entry["p95"])
    length = max(p50 - axis.start, 1.0)
    median, tail = _figures(entry)
    words = tag("tspan", median, class_="name"), tag("tspan", tail, class_="value")
    return join(
        tag("rect", x=axis.start, y=y + 2, width=length, height=18, rx=3, class_=f"bar {look}"),
        line(p50, y + 11, p95, y + 11, f"whisker {look}"),
        line(p95, y + 5, p95, y + 17, f"whisker {look}"),
        text(p95 + 9, y + 16, *words),
    )


def _figures(entry: Json) -> tuple[str, str]:
    return f"{numbers.two_digits(entry['p50'])} ms", f"  p95 {numbers.two_digits(entry['p95'])}"


def layer_map_svg(ledger: Json) -> Markup | None:
    """The teacher's blocks above, the student's below, and a line for each pair; None without a map."""
    groups = grouped_layer_maps(ledger)
    if not groups:
        return None
    parts: list[Markup] = []
    top = 0.0
    for names, pairs in groups:
        parts.append(_one_map(", ".join(names), pairs, ledger, top))
        top += 164
    described = "; ".join(f"{', '.join(names)}: {pair_words(pairs)}" for names, pairs in groups)
    return svg(top, "Layer map", described, *parts)


def _one_map(title: str, pairs: Sequence[Sequence[int]], ledger: Json, top: float) -> Markup:
    first = 0 if any(0 in pair for pair in pairs) else 1
    last_student = max([ledger.get("student_layers") or 0, *(student for student, _ in pairs)])
    last_teacher = max([ledger.get("teacher_layers") or 0, *(teacher for _, teacher in pairs)])
    left, right = 110.0, WIDTH - 4
    pitch = min((right - left) / (last_teacher - first + 1), 92.0)
    used_students, used_teachers = {student for student, _ in pairs}, {teacher for _, teacher in pairs}
    teachers = {block: left + pitch * (block - first + 0.5) for block in range(first, last_teacher + 1)}
    spread = pitch * (last_teacher - first + 1) / (last_student - first + 1)
    students = {block: left + spread * (block - first + 0.5) for block in range(first, last_student + 1)}
    if len(pairs) == len(students) == len(used_students) == len(used_teachers):
        students = {student: teachers[teacher] for student, teacher in pairs}  # right below
    above, below = top + 48, top + 118
    box = min(pitch - 6, BOX)
    return join(
        text(0, top + 20, title, class_="name"),
        text(0, above + 20, "Teacher"),
        text(0, below + 20, "Student"),
        *(line(teachers[t], above + 30, students[s], below, "link") for s, t in pairs),
        *(
            _block(x, above, box, block, "k-teacher" if block in used_teachers else "k-none")
            for block, x in teachers.items()
        ),
        *(
            _block(x, below, box, block, "k-student" if block in used_students else "k-none")
            for block, x in students.items()
        ),
    )


def _block(x: float, y: float, width: float, number: int, look: str) -> Markup:
    box = tag("rect", x=x - width / 2, y=y, width=width, height=30, rx=6, class_=f"block {look}")
    return join(box, text(x, y + 20, number, anchor="middle", class_=f"in {look}"))


def grouped_layer_maps(ledger: Json) -> list[tuple[list[str], list[list[int]]]]:
    """The layer maps, those that are alike under their names together."""
    groups: list[tuple[list[str], list[list[int]]]] = []
    for layer_map in ledger.get("layer_maps") or []:
        name, pairs = str(layer_map["name"]), [list(pair) for pair in layer_map["pairs"]]
        same = next((names for names, known in groups if known == pairs), None)
        if same is not None:
            same.append(name)
        elif pairs:
            groups.append(([name], pairs))
    return groups


def pair_words(pairs: Sequence[Sequence[int]]) -> str:
    """The pairs in words: ``student <- teacher: 1 <- 2, 2 <- 4`` (with arrows)."""
    arrow = "\N{LEFTWARDS ARROW}"
    return f"student {arrow} teacher: " + ", ".join(f"{s} {arrow} {t}" for s, t in pairs)


def _setting(entry: Json) -> tuple[int, int]:
    return entry["batch_size"], entry["threads"]


def _setting_words(batch_size: int, threads: int) -> str:
    return f"Batch size {batch_size}, {threads} thread{'s' if threads > 1 else ''}"


def _latency_words(timed: Sequence[Json]) -> str:
    return "; ".join(
        f"{row['label']}, {_setting_words(*_setting(entry)).lower()}: {numbers.two_digits(entry['p50'])} ms"
        for row in timed
        for entry in row["latencies"]
    )
