"""Scores of which one is no share of the other: zero, and below it."""

from __future__ import annotations

import pytest

from distil_nlp.evaluation.ledger import Ledger
from distil_nlp.evaluation.ledger_parts import Row


def ledger(teacher: float, student: float, *, metric: str = "matthews_correlation", lower: bool = False) -> Ledger:
    names = {"teacher": (teacher, 90.0), "student": (student, 45.0), "onnx_int8": (student, 9.0)}
    kinds = {"onnx_int8": "export"}
    rows = [
        Row(name=name, kind=kinds.get(name, name), metrics={metric: score}, size_mb=size)
        for name, (score, size) in names.items()
    ]
    return Ledger(name="n", task="t", metric=metric, lower_is_better=lower, rows=rows).complete()


@pytest.mark.parametrize(("teacher", "student"), [(0.0, 0.3), (-0.1, 0.4), (-0.1, -0.2)])
def test_a_teacher_that_is_not_above_zero_has_no_share(teacher: float, student: float) -> None:
    made = ledger(teacher, student)
    assert [row.retention for row in made.rows] == [None, None, None]
    assert made.verdict == [
        f"The teacher's matthews_correlation is {teacher:.3f}; the student's is {student:.3f}; it is 2.0 times smaller "
        "than the teacher.",
        f"The student's smallest export, ONNX int8, has matthews_correlation {student:.3f}; it is 10.0 times smaller "
        "than the teacher.",
    ]


def test_a_student_at_zero_has_lost_all_and_its_smallest_export_is_named() -> None:
    made = ledger(0.5, 0.0)
    assert "0.0 % of it" in made.verdict[0]
    assert "The student's smallest export, ONNX int8, has matthews_correlation 0.000, 0.0 %" in made.verdict[1]


def test_an_error_of_zero_is_said_without_a_share() -> None:
    made = ledger(0.1, 0.0, metric="mse", lower=True)
    assert made.row("student").retention is None
    assert made.verdict[0].startswith("The teacher's mse is 0.100; the student's is 0.000; it is 2.0 times smaller")


def test_a_student_above_its_teacher() -> None:
    assert "120.0 % of it" in ledger(0.5, 0.6).verdict[0]
    assert "a retention of 200.0 %" in ledger(0.2, 0.1, metric="mse", lower=True).verdict[0]


def test_a_score_that_is_not_a_number_is_not_compared() -> None:
    assert ledger(float("nan"), 0.3).verdict == []
    assert ledger(0.3, float("inf"), metric="perplexity", lower=True).verdict == []
