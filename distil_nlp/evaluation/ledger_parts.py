"""The parts of a run's ledger, as ``report.json`` has them."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from distil_nlp.evaluation.bootstrap import MetricInterval


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _bounded(value: Any) -> Any:
    unknown = isinstance(value, MetricInterval) and not all(map(math.isfinite, (value.value, value.low, value.high)))
    return None if unknown else value


Figure = Annotated[float | None, BeforeValidator(_finite)]
"""A number, or null where it is not one: JSON has no NaN."""


class Part(BaseModel):
    """A part of a ledger: no keys but its own."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class LatencyRow(Part):
    """Milliseconds of one artefact in one setting."""

    p50: float
    p95: float
    batch_size: int
    sequence_length: int
    threads: int
    runtime: str
    repeats: int | None = None


class WritingRow(Part):
    """Tokens per second of one decoder in one setting, after the prompt has been read."""

    tokens_per_second: Figure
    batch_size: int
    prompt_tokens: int
    new_tokens: int
    threads: int
    runtime: str


class Row(Part):
    """One artefact. Retention, factors, headline latency and speed, and label are filled in by the ledger."""

    name: str
    kind: Literal["teacher", "student", "control", "export"]
    label: str = ""
    metrics: dict[str, Figure] = Field(default_factory=dict)
    interval: Annotated[MetricInterval | None, BeforeValidator(_bounded)] = None
    retention: Figure = None
    parameters: int | None = None
    size_mb: float | None = None
    times_smaller: float | None = None
    latency_ms: LatencyRow | None = None
    latencies: list[LatencyRow] = Field(default_factory=list)
    times_faster: float | None = None
    writing: list[WritingRow] = Field(default_factory=list)
    tokens_per_second: Figure = None
    energy_j_per_1000: float | None = None


class Gain(Part):
    """What the student has over one control, with the paired bootstrap interval over the test rows."""

    metric: str
    student: float
    control: float
    difference: float
    low: float
    high: float
    confidence: float
    samples: int
    rows: int
    beyond_noise: bool
    points: bool = Field(default=True, description="said in points of a hundred")
    words: str


class LayerMap(Part):
    """Which teacher layer each student layer takes after, and in what: ``(student, teacher)`` pairs.

    Blocks count from 1; 0 is the embedding output.
    """

    name: str
    pairs: list[tuple[int, int]]


class Curve(Part):
    """One loss term of one training run, weighted as it enters the total."""

    run: str
    term: str
    steps: list[int]
    values: list[Figure]


class StageCost(Part):
    """What one stage of the run cost."""

    name: str
    seconds: float
    parameters: int | None = Field(default=None, description="parameters trained")
    size_mb: float | None = Field(default=None, description="megabytes left on the disk")


class DataInfo(Part):
    """What the models learn from and are measured on."""

    dataset: str = ""
    rows: dict[str, int] = Field(default_factory=dict)
    classes: list[str] = Field(default_factory=list)
    majority_baseline: Figure = None
