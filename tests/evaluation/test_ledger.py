from __future__ import annotations

import json
import os

import pytest

from distil_nlp.errors import DataError, DistilError
from distil_nlp.evaluation.bootstrap import Interval, MetricInterval
from distil_nlp.evaluation.ledger import Ledger
from distil_nlp.evaluation.ledger_parts import Curve, Row, StageCost


def latencies(ms: float, runtime: str = "pytorch") -> list[dict]:
    rows = [(16, 1, 9.0), (1, 2, 0.8), (1, 1, 1.0)]
    common = {"sequence_length": 32, "runtime": runtime}
    return [{"p50": ms * f, "p95": ms * f + 1, "batch_size": b, "threads": t, **common} for b, t, f in rows]


def small_ledger() -> Ledger:
    return Ledger(
        name="demo",
        task="text-classification",
        metric="accuracy",
        rows=[
            Row(name="teacher", kind="teacher", metrics={"accuracy": 0.9}, size_mb=90, latencies=latencies(20)),
            Row(
                name="student",
                kind="student",
                metrics={"accuracy": 0.855},
                size_mb=45,
                latencies=latencies(10),
            ),
            Row(name="control_pretrained", kind="control", metrics={"accuracy": 0.843}, size_mb=45),
            Row(name="control_same_start", kind="control", metrics={"accuracy": 0.859}, size_mb=45),
            Row(
                name="onnx_int8",
                kind="export",
                metrics={"accuracy": 0.846},
                size_mb=12,
                latencies=latencies(2.5, "onnxruntime"),
            ),
        ],
        cost=[StageCost(name="teach", seconds=60.5), StageCost(name="distill", seconds=40)],
    )


def gain(difference: float, low: float, high: float) -> Interval:
    return Interval(difference, low, high, confidence=0.95, samples=10_000, rows=1000)


def test_complete_derives_what_follows_from_the_rows():
    ledger = small_ledger().complete()
    student, int8 = ledger.row("student"), ledger.row("onnx_int8")
    assert student.retention == pytest.approx(0.95)
    assert student.times_smaller == 2
    assert student.times_faster == 2
    assert int8.times_smaller == 7.5
    assert int8.times_faster == 8
    assert (student.latency_ms.batch_size, student.latency_ms.threads, student.latency_ms.p50) == (1, 1, 10)
    assert int8.label == "ONNX int8"
    assert ledger.row("control_pretrained").times_faster is None
    assert ledger.total_seconds == 100.5
    assert ledger.verdict == [
        "The teacher's accuracy is 0.900; the student's is 0.855, 95.0 % of it; it is 2.0 times smaller and "
        "2.0 times faster than the teacher.",
        "The student's smallest export, ONNX int8, has accuracy 0.846, 94.0 % of the teacher's; it is 7.5 "
        "times smaller and 8.0 times faster than the teacher.",
        "Speed is the median time of one batch (batch size 1, 32 tokens, one thread of the CPU).",
    ]


def test_factors_below_one_are_said_the_other_way_round():
    ledger = small_ledger()
    ledger.row("student").size_mb = 180
    assert "2.0 times larger and 2.0 times faster" in ledger.complete().verdict[0]


def test_latency_in_another_setting_is_not_compared():
    ledger = small_ledger()
    ledger.row("student").latencies = [row for row in ledger.row("student").latencies if row.threads == 2]
    assert ledger.complete().row("student").times_faster is None
    assert "faster" not in ledger.verdict[0]


def test_gain_over_control_and_its_split():
    ledger = small_ledger()
    ledger.add_gain("control_pretrained", gain(0.012, -0.002, 0.026))
    assert ledger.complete().gain_split is None
    ledger.add_gain("control_same_start", gain(-0.004, -0.019, 0.010))
    ledger.complete()
    entry = ledger.gain_over_control["control_same_start"]
    assert (entry.student, entry.control, entry.beyond_noise) == (0.855, 0.859, False)
    assert entry.words == ledger.verdict[-1]
    assert entry.words.startswith("The student is 0.4 points below its same-start control")
    assert ledger.gain_split == {"weights": pytest.approx(0.016), "signals": -0.004}
    with pytest.raises(DataError, match="accuracy"):
        ledger.add_gain("nobody", gain(0, 0, 0))


def test_round_trip(tmp_path):
    ledger = small_ledger()
    ledger.add_gain("control_pretrained", gain(0.012, -0.002, 0.026))
    ledger.row("student").interval = MetricInterval(0.855, 0.83, 0.88, 0.95, 10_000, 1000)
    path = ledger.save(tmp_path / "run" / "report.json")
    assert Ledger.load(path) == ledger
    saved = json.loads(path.read_text())
    assert saved["schema"] == 1
    assert saved["rows"][0]["energy_j_per_1000"] is None
    assert saved["rows"][1]["latency_ms"]["p50"] == 10
    assert saved["rows"][1]["interval"]["low"] == 0.83
    assert Ledger.load(path).save(tmp_path / "again.json").read_text() == path.read_text()


def test_figures_that_are_not_numbers_are_null(tmp_path):
    ledger = small_ledger()
    ledger.rows[1].metrics["f1"] = None
    ledger.rows.append(Row(name="x", kind="export", metrics={"accuracy": float("nan")}))
    ledger.loss_curves = [Curve(run="student", term="loss", steps=[1, 2], values=[float("inf"), 1.0])]
    text = ledger.save(tmp_path / "report.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    loaded = Ledger.load(tmp_path / "report.json")
    assert loaded.row("x").metrics == {"accuracy": None}
    assert loaded.row("x").retention is None
    assert loaded.loss_curves[0].values == [None, 1.0]


def test_without_teacher_or_student_there_is_no_verdict():
    assert Ledger(name="n", task="t", metric="accuracy").complete().verdict == []


def test_a_failed_write_leaves_the_earlier_report(tmp_path, monkeypatch):
    path = small_ledger().save(tmp_path / "report.json")
    before = path.read_text()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DistilError, match="No space left on device"):
        Ledger(name="n", task="t", metric="m").save(path)
    assert path.read_text() == before
    assert os.listdir(tmp_path) == ["report.json"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("{", "not JSON"),
        ('{"schema": 2, "name": "n", "task": "t", "metric": "m"}', "schema"),
        ('{"schema": 1, "name": "n", "task": "t", "metric": "m", "rowz": []}', "rowz"),
    ],
)
def test_what_is_not_a_ledger_is_refused(tmp_path, text, said):
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    with pytest.raises(DataError, match=said):
        Ledger.load(tmp_path / "report.json")
