"""``report.html``: one file that needs nothing else, rendered from ``report.json`` alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distil_nlp.report import numbers
from distil_nlp.report.bars import grouped_layer_maps, latency_svg, layer_map_svg, pair_words
from distil_nlp.report.curves import loss_curves_svg
from distil_nlp.report.markup import Markup, join, tag
from distil_nlp.report.plots import gain_svg, size_quality_svg
from distil_nlp.report.style import PAGE_STYLE
from distil_nlp.report.svg import kind_class, row_label
from distil_nlp.report.tables import latency_note, ledger_cells

Json = Mapping[str, Any]

QUALITY_NOTE = (
    "{side} and to the left is better. The quality axis is zoomed and does not start at zero; artefacts "
    "of the same size stand side by side."
)
WHISKER_NOTE = (
    " Whiskers are {confidence:g} % bootstrap intervals over the test rows, which all artefacts share: "
    "whiskers that overlap do not by themselves make a difference noise."
)
GAIN_NOTE = (
    "A control is the same architecture, trained on the same labelled rows for the same steps without the teacher. "
    "Intervals are a paired bootstrap over the test rows."
)
SPLIT_NOTE = (
    "Of the gain over the control with the pre-trained start, {weights}{unit} came with the teacher's "
    "weights and {signals} with its signals (point estimates)."
)
LATENCY_NOTE = (
    "Warm calls on the CPU at {tokens} tokens a row, all artefacts in turns under one protocol. Bars end at "
    "the median (p50), ticks mark the 95th percentile (p95). Panels of one batch size share their scale."
)

WRITING_NOTE = (
    "Tokens per second once the prompt has been read, the likeliest token each time, all artefacts in turns on the CPU."
)


def render_html(ledger: Json) -> str:
    """The whole report as one HTML page, without scripts and without a request to anywhere.

    Args:
        ledger: What ``report.json`` holds. Parts that a run did not make are left out, or said to be missing.
    """
    title = f"Distillation report: {ledger['name']}"
    sections = (_verdict, _table, _gain, _latency, _writing, _curves, _layers, _cost, _setting)
    body = join(
        _header(ledger),
        tag("main", *(section(ledger) for section in sections)),
        tag("footer", tag("p", "Every figure on this page is in report.json beside it.")),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(PAGE_STYLE)),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', body), lang='en')}\n"


def ledger_svg(ledger: Json) -> str | None:
    """The size-against-quality picture as an SVG file by itself; None when nothing was sized."""
    return size_quality_svg(ledger, standalone=True)


def _header(ledger: Json) -> Markup:
    data = ledger.get("data") or {}
    rows = data.get("rows") or {}
    about = [ledger["task"], ledger["metric"], f"{rows['test']:,} test rows" if "test" in rows else None]
    return tag(
        "header",
        tag("p", "Distillation report", class_="kicker"),
        tag("h1", ledger["name"]),
        tag("p", " \N{MIDDLE DOT} ".join(str(part) for part in about if part), class_="about"),
        _tiles(ledger),
    )


def _tiles(ledger: Json) -> Markup | None:
    rows = {row["name"]: row for row in ledger["rows"]}
    metric, teacher, student = ledger["metric"], rows.get("teacher"), rows.get("student")
    tiles: list[Markup] = []
    if teacher and student and student.get("retention") is not None:
        scores = [numbers.score(row["metrics"].get(metric)) for row in (student, teacher)]
        of = f"of the {metric}: student {scores[0]}, teacher {scores[1]}"
        tiles.append(_tile("Retention", numbers.percent(student["retention"]), of))
    exports = [row for row in ledger["rows"] if row["kind"] == "export" and row.get("size_mb")]
    smallest = min(exports, key=lambda row: row["size_mb"], default=student)
    if smallest and teacher and smallest.get("times_smaller"):
        mb = [f"{numbers.megabytes(row['size_mb'])} MB" for row in (smallest, teacher)]
        of = f"{smallest['label']} {mb[0]}, teacher {mb[1]}"
        tiles.append(_tile("Smaller", numbers.times(smallest["times_smaller"]), of))
    if smallest and teacher and smallest.get("times_faster"):
        p50 = [f"{numbers.two_digits(row['latency_ms']['p50'])} ms" for row in (smallest, teacher)]
        of = f"{smallest['label']} {p50[0]}, teacher {p50[1]}"
        tiles.append(_tile("Faster", numbers.times(smallest["times_faster"]), of))
    for name, gain in list((ledger.get("gain_over_control") or {}).items())[:1]:
        noise = "beyond noise" if gain["beyond_noise"] else "within noise"
        unit = "points" if gain["points"] else metric
        of = f"{unit}, {noise} ({row_label(ledger, name)}: {numbers.score(gain['control'])})"
        tiles.append(_tile("Gain over control", numbers.gain(gain["difference"], gain["points"]), of))
    return tag("dl", *tiles, class_="tiles") if tiles else None


def _tile(name: str, figure: str, of: str) -> Markup:
    return tag("div", tag("dt", name), tag("dd", figure, class_="figure"), tag("dd", of, class_="of"), class_="tile")


def _section(title: str, note: str | None, *content: object) -> Markup:
    return tag("section", tag("h2", title), tag("p", note, class_="note") if note else None, *content)


def _picture(picture: Markup | None) -> Markup | None:
    return tag("figure", tag("div", picture, class_="scroll")) if picture else None


def _grid(headers: Sequence[object], rows: Sequence[Sequence[object]]) -> Markup:
    head = tag("thead", tag("tr", *(tag("th", header, scope="col") for header in headers)))
    body = (tag("tr", *(tag("td", cell) for cell in cells)) for cells in rows)
    return tag("div", tag("table", head, tag("tbody", *body)), class_="scroll")


def _verdict(ledger: Json) -> Markup:
    sentences = ledger.get("verdict") or ["The run has no teacher and student to compare yet."]
    return tag("section", *(tag("p", sentence) for sentence in sentences), class_="verdict", aria_label="Verdict")


def _table(ledger: Json) -> Markup:
    headers, rows = ledger_cells(ledger)
    cells = [
        [join(tag("span", class_=f"swatch {kind_class(row['kind'])}"), name), *rest]
        for row, (name, *rest) in zip(ledger["rows"], rows, strict=True)
    ]
    content = _grid(headers, cells) if rows else tag("p", "Nothing has been evaluated yet.")
    picture = size_quality_svg(ledger)
    quality = _section("Size against quality", _whisker_note(ledger), _picture(picture)) if picture else None
    note = latency_note(ledger) if any(row.get("latency_ms") for row in ledger["rows"]) else None
    return join(_section("The ledger", note, content), quality)


def _whisker_note(ledger: Json) -> str:
    known = [row["interval"] for row in ledger["rows"] if row.get("interval")]
    note = QUALITY_NOTE.format(side="Down" if ledger.get("lower_is_better") else "Up")
    return note + (WHISKER_NOTE.format(confidence=100 * known[0]["confidence"]) if known else "")


def _gain(ledger: Json) -> Markup:
    picture = gain_svg(ledger)
    if picture is None:
        return _section("Gain over control", "The run has no control, so it does not say what the teacher added.")
    said = None
    if split := ledger.get("gain_split"):
        points = all(gain["points"] for gain in ledger["gain_over_control"].values())
        parts = {part: numbers.gain(value, points) for part, value in split.items()}
        said = tag("p", SPLIT_NOTE.format(unit=" points" if points else "", **parts), class_="note")
    return _section("Gain over control", GAIN_NOTE, _picture(picture), said)


def _latency(ledger: Json) -> Markup:
    picture = latency_svg(ledger)
    if picture is None:
        return _section("Latency", "Latency was not measured.")
    entries = [(row["label"], entry) for row in ledger["rows"] for entry in row.get("latencies") or []]
    tokens = sorted({entry["sequence_length"] for _, entry in entries})
    note = LATENCY_NOTE.format(tokens=" or ".join(map(str, tokens)))
    rows = [
        [
            label,
            entry["runtime"],
            entry["batch_size"],
            entry["threads"],
            entry["sequence_length"],
            numbers.two_digits(entry["p50"]),
            numbers.two_digits(entry["p95"]),
        ]
        for label, entry in entries
    ]
    table = _grid(["Artefact", "Runtime", "Batch size", "Threads", "Tokens", "p50, ms", "p95, ms"], rows)
    return _section("Latency", note, _picture(picture), tag("details", tag("summary", "As a table"), table))


def _writing(ledger: Json) -> Markup | None:
    rows = [
        [
            row["label"],
            entry["runtime"],
            entry["batch_size"],
            entry["threads"],
            entry["prompt_tokens"],
            entry["new_tokens"],
            numbers.two_digits(entry["tokens_per_second"]),
        ]
        for row in ledger["rows"]
        for entry in row.get("writing") or []
    ]
    headers = ["Artefact", "Runtime", "Batch size", "Threads", "Prompt, tokens", "Written, tokens", "Tokens per s"]
    return _section("Writing", WRITING_NOTE, _grid(headers, rows)) if rows else None


def _curves(ledger: Json) -> Markup | None:
    picture = loss_curves_svg(ledger)
    note = "Each term weighted as it enters the total, so that the terms add up to it."
    return _section("Loss", note, _picture(picture)) if picture else None


def _layers(ledger: Json) -> Markup | None:
    picture = layer_map_svg(ledger)
    if picture is None:
        return None
    words = [
        tag("p", f"{', '.join(names)}: {pair_words(pairs)}", class_="note")
        for names, pairs in grouped_layer_maps(ledger)
    ]
    return _section(
        "Layer map",
        "Which teacher layer each student layer takes after; 0 is the embedding output.",
        _picture(picture),
        *words,
    )


def _cost(ledger: Json) -> Markup | None:
    stages = ledger.get("cost") or []
    if not stages:
        return None
    longest = max(stage["seconds"] for stage in stages) or 1.0
    headers = ["Stage", "Time", "", "Parameters trained", "On disk, MB"]
    rows = [
        [
            stage["name"],
            numbers.duration(stage["seconds"]),
            _share(stage["seconds"] / longest),
            numbers.count(stage.get("parameters")),
            numbers.megabytes(stage.get("size_mb")),
        ]
        for stage in stages
    ]
    total = ["Total", numbers.duration(ledger.get("total_seconds")), "", "", ""]
    return _section("Cost", None, _grid(headers, [*rows, total]))


def _share(share: float) -> Markup:
    return tag("span", tag("span", class_="share", style=f"width:{100 * share:.1f}%"), class_="track")


def _setting(ledger: Json) -> Markup | None:
    data = ledger.get("data") or {}
    facts: list[tuple[str, object]] = [("Data", data.get("dataset"))]
    facts += [(f"Rows, {split}", f"{rows:,}") for split, rows in (data.get("rows") or {}).items()]
    facts.append(("Classes", ", ".join(map(str, data.get("classes") or []))))
    if data.get("majority_baseline") is not None:
        facts.append(("Majority class alone", f"{numbers.score(data['majority_baseline'])} accuracy"))
    facts += list(_flat(ledger.get("environment") or {}))
    written = [join(tag("dt", name), tag("dd", value)) for name, value in facts if value not in (None, "")]
    return _section("Data and environment", None, tag("dl", *written, class_="facts")) if written else None


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        label = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{label}: ")
        else:
            yield label, ", ".join(map(str, value)) if isinstance(value, list) else value
