"""The ledger of a run, ``report.json``: every figure that the report, the cards and the docs show."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from distil_nlp.errors import DataError, DistilError
from distil_nlp.evaluation.bootstrap import Interval
from distil_nlp.evaluation.ledger_parts import (
    Curve,
    DataInfo,
    Gain,
    LatencyRow,
    LayerMap,
    Part,
    Row,
    StageCost,
    WritingRow,
)
from distil_nlp.files import write_whole

Setting = TypeVar("Setting", LatencyRow, WritingRow)

LABELS = {
    "teacher": "Teacher",
    "student": "Student",
    "control_pretrained": "Control, pre-trained start",
    "control_same_start": "Control, same start",
    "onnx": "ONNX fp32",
    "onnx_int8": "ONNX int8",
}

BASELINES = {
    "control_pretrained": "its control (trained without the teacher, from the pre-trained layers)",
    "control_same_start": "its same-start control (its own first weights, trained without the teacher)",
}


class Ledger(Part):
    """Everything that a run found out. :meth:`complete` derives what follows from the rows."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    name: str
    task: str
    metric: str
    lower_is_better: bool = False
    verdict: list[str] = Field(default_factory=list)
    data: DataInfo = DataInfo()
    rows: list[Row] = Field(default_factory=list)
    gain_over_control: dict[str, Gain] = Field(default_factory=dict)
    gain_split: dict[Literal["weights", "signals"], float] | None = None
    layer_maps: list[LayerMap] = Field(default_factory=list)
    student_layers: int | None = None
    teacher_layers: int | None = None
    loss_curves: list[Curve] = Field(default_factory=list)
    cost: list[StageCost] = Field(default_factory=list)
    total_seconds: float | None = None
    environment: dict[str, Any] = Field(default_factory=dict)

    def row(self, name: str) -> Row | None:
        """The row of that name, if the run has it."""
        return next((row for row in self.rows if row.name == name), None)

    def add_gain(self, control: str, interval: Interval, *, points: bool = True) -> None:
        """Enters the student's gain over ``control`` (a row's name) from its paired bootstrap.

        Raises:
            DataError: If the student's or the control's row, or its metric, is not there yet.
        """
        scores = [row.metrics.get(self.metric) for row in (self.row("student"), self.row(control)) if row]
        if len(scores) < 2 or scores[0] is None or scores[1] is None:
            raise DataError(
                f"The student's gain over '{control}' was asked for.",
                f"The ledger lacks the {self.metric} of one of the two, or it is not a number.",
                "Evaluate both before the gain.",
            )
        self.gain_over_control[control] = Gain(
            metric=self.metric,
            student=scores[0],
            control=scores[1],
            **asdict(interval),
            beyond_noise=interval.beyond_noise,
            points=points,
            words=interval.in_words(
                baseline=BASELINES.get(control, control), points=points, lower_is_better=self.lower_is_better
            ),
        )

    def complete(self) -> Ledger:
        """Derives labels, headline latencies, retention, factors, totals and the verdict; returns itself."""
        for row in self.rows:
            row.label = row.label or LABELS.get(row.name, row.name)
            row.latency_ms = _headline(row.latencies) or row.latency_ms
            row.tokens_per_second = next((entry.tokens_per_second for entry in _in_order(row.writing)), None)
        if teacher := self.row("teacher"):
            for row in self.rows:
                self._compare(row, teacher)
        gains = self.gain_over_control
        if {"control_pretrained", "control_same_start"} <= gains.keys():
            signals = gains["control_same_start"].difference
            self.gain_split = {
                "weights": gains["control_pretrained"].difference - signals,
                "signals": signals,
            }
        self.total_seconds = sum(stage.seconds for stage in self.cost) if self.cost else None
        self.verdict = [*self._verdict(), *(gain.words for gain in gains.values())]
        return self

    def save(self, path: str | Path) -> Path:
        """Completes the ledger and writes it as JSON: whole, or not at all.

        Raises:
            DistilError: If it cannot be written; what was at ``path`` is still there.
        """
        path = Path(path)
        text = self.complete().model_dump_json(by_alias=True, indent=2) + "\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)
        except OSError as error:
            raise DistilError(
                f"The report was to be written to {path}.",
                f"That failed: {error.strerror or error}.",
                "Free some space or choose another --output-dir; an earlier report there is untouched.",
            ) from error
        return path

    @classmethod
    def load(cls, path: str | Path) -> Ledger:
        """Reads ``report.json``.

        Raises:
            DataError: If there is none, or it is not a ledger of this schema.
        """
        try:
            return cls.model_validate(json.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            found = error.strerror or str(error)
        except ValidationError as error:
            first = error.errors()[0]
            found = f"{'.'.join(map(str, first['loc']))}: {first['msg']} ({error.error_count()} in all)."
        except ValueError as error:
            found = f"It is not JSON: {error}."
        raise DataError(
            f"The ledger {path} was asked for.",
            found,
            "Write it again: distil-nlp report RECIPE --output-dir FOLDER",
        )

    def _compare(self, row: Row, teacher: Row) -> None:
        scores = row.metrics.get(self.metric), teacher.metrics.get(self.metric)
        row.retention = _ratio(*(reversed(scores) if self.lower_is_better else scores))
        row.times_smaller = _ratio(teacher.size_mb, row.size_mb)
        if row.latency_ms and teacher.latency_ms and _setting(row.latency_ms) == _setting(teacher.latency_ms):
            row.times_faster = _ratio(teacher.latency_ms.p50, row.latency_ms.p50)

    def _verdict(self) -> Iterable[str]:
        scored = {row.name: row for row in self.rows if row.metrics.get(self.metric) is not None}
        teacher, student = scored.get("teacher"), scored.get("student")
        if not teacher or not student:
            return
        kept = "a retention of {:.1f} % as lower is better" if self.lower_is_better else "{:.1f} % of it"
        yield (
            f"The teacher's {self.metric} is {teacher.metrics[self.metric]:.3f}; the student's is "
            f"{student.metrics[self.metric]:.3f}{_share(student, kept)}{_factors(student)}."
        )
        exports = [row for row in scored.values() if row.kind == "export" and row.size_mb]
        for row in sorted(exports, key=lambda row: row.size_mb or 0)[:1]:
            kept = "a retention of {:.1f} %" if self.lower_is_better else "{:.1f} % of the teacher's"
            score = f"{self.metric} {row.metrics[self.metric]:.3f}"
            yield f"The student's smallest export, {row.label}, has {score}{_share(row, kept)}{_factors(row)}."
        if at := next((row.latency_ms for row in self.rows if row.times_faster), None):
            cores = "one thread" if at.threads == 1 else f"{at.threads} threads"
            setting = f"batch size {at.batch_size}, {at.sequence_length} tokens, {cores} of the CPU"
            yield f"Speed is the median time of one batch ({setting})."


def _share(row: Row, words: str) -> str:
    """``, 95.0 % of it``; nothing where the teacher's score is not above zero."""
    return "" if row.retention is None else f", {words.format(100 * row.retention)}"


def _factors(row: Row) -> str:
    """``; it is 7.4 times smaller and 8.1 times faster than the teacher``, or what of it is known."""
    factors = ((row.times_smaller, "smaller", "larger"), (row.times_faster, "faster", "slower"))
    said = [
        f"{max(factor, 1 / factor):.1f} times {more if factor >= 1 else less}"
        for factor, more, less in factors
        if factor
    ]
    return f"; it is {' and '.join(said)} than the teacher" if said else ""


def _headline(latencies: list[LatencyRow]) -> LatencyRow | None:
    """Batch size 1 on one thread, or the nearest to it that was measured."""
    return next(iter(_in_order(latencies)), None)


def _in_order(settings: list[Setting]) -> list[Setting]:
    return sorted(settings, key=lambda setting: (setting.batch_size, setting.threads))


def _setting(latency: LatencyRow) -> tuple[int, int, int]:
    return latency.batch_size, latency.threads, latency.sequence_length


def _ratio(value: float | None, over: float | None) -> float | None:
    return value / over if value is not None and over is not None and over > 0 else None
