"""The ledger as a table: for the report, the terminal and the README, the same cells in each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from distil_nlp.report import numbers

Json = Mapping[str, Any]


def ledger_cells(ledger: Json) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of text; a column that no artefact has a figure for is left out."""
    rows = ledger["rows"]
    metrics = list(dict.fromkeys([ledger["metric"], *(name for row in rows for name in row["metrics"])]))
    columns: list[tuple[str, list[str]]] = [
        *((str(metric), [numbers.score(row["metrics"].get(metric)) for row in rows]) for metric in metrics),
        ("Retention", [numbers.percent(row.get("retention")) for row in rows]),
        ("Parameters", [numbers.count(row.get("parameters")) for row in rows]),
        ("Size, MB", [numbers.megabytes(row.get("size_mb")) for row in rows]),
        ("Smaller", [numbers.times(row.get("times_smaller")) for row in rows]),
        ("p50, ms", [numbers.two_digits((row.get("latency_ms") or {}).get("p50")) for row in rows]),
        ("p95, ms", [numbers.two_digits((row.get("latency_ms") or {}).get("p95")) for row in rows]),
        ("Faster", [numbers.times(row.get("times_faster")) for row in rows]),
        ("Tokens per s", [numbers.two_digits(row.get("tokens_per_second")) for row in rows]),
    ]
    kept = [(title, cells) for title, cells in columns if any(cell != numbers.MISSING for cell in cells)]
    names = [str(row.get("label") or row["name"]) for row in rows]
    return ["Artefact", *(title for title, _ in kept)], [
        [name, *(cells[place] for _, cells in kept)] for place, name in enumerate(names)
    ]


def latency_note(ledger: Json) -> str:
    """What the table's latency was measured at, or that it was not."""
    settings = [row["latency_ms"] for row in ledger["rows"] if row.get("latency_ms")]
    if not settings:
        return "Latency was not measured."
    at = settings[0]
    threads = "one thread" if at["threads"] == 1 else f"{at['threads']} threads"
    return (
        f"Latency of a warm call at batch size {at['batch_size']}, {at['sequence_length']} tokens, {threads} "
        "of the CPU. Smaller and faster are against the teacher."
    )


def terminal_table(ledger: Json) -> Table:
    """The ledger for the end of a run in a terminal: what fits 80 columns, the rest is in the report."""
    headers, rows = ledger_cells(ledger)
    kept = [place for place, header in enumerate(headers) if header not in ("Parameters", "p95, ms")]
    table = Table(title=Text(str(ledger["name"])), caption=latency_note(ledger), caption_justify="left")
    table.box, table.padding = SIMPLE_HEAD, (0, 0)
    for place in kept:
        table.add_column(Text(headers[place].replace(", ", "\n")), justify="right" if place else "left")
    for cells in rows:
        table.add_row(*(Text(cells[place]) for place in kept))
    return table


def markdown_table(ledger: Json) -> str:
    """The ledger as a GitHub-flavoured Markdown table with a line on how latency was measured."""
    headers, rows = ledger_cells(ledger)
    lines = [
        _markdown_row(headers),
        _markdown_row(["---", *("---:" for _ in headers[1:])]),
        *map(_markdown_row, rows),
        "",
        latency_note(ledger),
    ]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
