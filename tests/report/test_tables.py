from __future__ import annotations

import io

import pytest
from rich.console import Console

from distil_nlp.report import numbers
from distil_nlp.report.tables import ledger_cells, markdown_table, terminal_table


def printed(ledger: dict, width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(terminal_table(ledger))
    return stream.getvalue()


def test_terminal_fits_eighty_columns(movie):
    lines = printed(movie).splitlines()
    student = next(line for line in lines if "Student" in line)
    assert student.split() == [
        "Student",
        "0.869",
        "0.872",
        "98.7",
        "%",
        "69.6",
        "1.3\u00d7",
        "9.4",
        "2.0\u00d7",
    ]
    assert sum(row["label"] in line for row in movie["rows"] for line in lines) == len(movie["rows"])
    assert "…" not in printed(movie)


def test_markdown_has_every_column(movie):
    lines = markdown_table(movie).splitlines()
    headers, cells = ledger_cells(movie)
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == headers
    assert [cell.strip() for cell in lines[-3].strip("|").split("|")] == cells[-1]
    assert lines[-1].startswith("Latency of a warm call at batch size 1, 32 tokens, one thread")


def test_columns_without_figures_are_left_out(bare):
    assert ledger_cells(bare)[0] == ["Artefact", "accuracy", "Retention"]
    assert markdown_table(bare).endswith("Latency was not measured.\n")


def test_names_are_not_markup(movie):
    movie["rows"][0]["label"] = "[red]a|b[/red]"
    assert "[red]a|b[/red]" in printed(movie)
    assert "| [red]a\\|b[/red] |" in markdown_table(movie)


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (numbers.score(0.86849), "0.868"),
        (numbers.score(None), "\u2013"),
        (numbers.percent(0.98712), "98.7 %"),
        (numbers.megabytes(1234.56), "1,234.6"),
        (numbers.megabytes(0.0123), "0.012"),
        (numbers.two_digits(0.123), "0.12"),
        (numbers.two_digits(0.999), "1.0"),
        (numbers.two_digits(9.94), "9.9"),
        (numbers.two_digits(9.96), "10"),
        (numbers.two_digits(1234.5), "1,234"),
        (numbers.times(7.46), "7.5\u00d7"),
        (numbers.count(22_713_986), "22.7M"),
        (numbers.count(135_000_000), "135M"),
        (numbers.count(1_500_000_000), "1.5B"),
        (numbers.count(999), "999"),
        (numbers.duration(4.25), "4.2 s"),
        (numbers.duration(59.6), "1 min 00 s"),
        (numbers.duration(185), "3 min 05 s"),
        (numbers.duration(7830), "2 h 10 min"),
        (numbers.signed(-1.24), "\u22121.2"),
        (numbers.signed(-0.01), "0.0"),
        (numbers.signed(0.4), "+0.4"),
    ],
)
def test_numbers(shown, text):
    assert shown == text
