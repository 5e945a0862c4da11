"""From the results that the stages have left to the ledger of a run."""

from __future__ import annotations

import math
from typing import Any

from distil_nlp.data.load import DataSummary
from distil_nlp.evaluation.bootstrap import Interval, MetricInterval
from distil_nlp.evaluation.ledger import Ledger
from distil_nlp.evaluation.ledger_parts import Curve, DataInfo, LatencyRow, LayerMap, Row, StageCost, WritingRow
from distil_nlp.evaluation.metrics import higher_is_better, in_points
from distil_nlp.recipe import Recipe
from distil_nlp.run.folder import RunFolder

KINDS: dict[str, Any] = {"student": "student", "onnx": "export", "onnx_int8": "export"}


def ledger_of(folder: RunFolder, recipe: Recipe, data: DataSummary, metric: str) -> Ledger:
    """Gathers every figure of a run; stages that were not run are left out.

    Args:
        folder: The run's folder; the stage ``evaluate`` must have finished.
        recipe: The recipe.
        data: What was learned from.
        metric: The headline metric.
    """
    evaluated = folder.result("evaluate")
    results = {
        name: folder.result(name) for name in ("teach", "distill", "control", "export", "bench") if folder.has(name)
    }
    results = _each_stage(results)
    ledger = Ledger(
        name=recipe.name,
        task=recipe.task.name,
        metric=metric,
        lower_is_better=not higher_is_better(metric),
        data=DataInfo(
            dataset=recipe.task.dataset,
            rows=data.rows | _augmented(results.get("distill", {})),
            classes=data.label_names,
            majority_baseline=data.majority_baseline,
        ),
        rows=_rows(evaluated, results, list(recipe.teachers)),
        loss_curves=_curves(results),
        cost=_cost(results, evaluated),
        environment=results.get("bench", evaluated).get("environment", {}),  # of the timings, where there are any
        **_layers(results),
    )
    for name, interval in evaluated["gains"].items():
        if all(math.isfinite(interval[key]) for key in ("difference", "low", "high")):  # or a model is past scoring
            ledger.add_gain(name, Interval(**interval), points=in_points(metric))
    return ledger


def _rows(evaluated: dict[str, Any], results: dict[str, Any], teachers: list[str]) -> list[Row]:
    kinds: dict[str, Any] = KINDS | dict.fromkeys(["teacher", *teachers], "teacher")
    members = teachers if len(teachers) > 1 else []
    labels = {name: f"Teacher {number}" for number, name in enumerate(members, start=1)}
    labels |= {"teacher": f"Teacher, ensemble of {len(members)}"} if members else {}
    artefacts = {**evaluated["artefacts"], **results.get("export", {}).get("artefacts", {})}
    latencies, writing = (results.get("bench", {}).get(kind, {}) for kind in ("latencies", "writing"))
    return [
        Row(
            name=name,
            kind=kinds.get(name, "control"),
            label=labels.get(name, ""),
            metrics=scores["metrics"],
            interval=MetricInterval(**scores["interval"]),
            parameters=scores["parameters"],
            size_mb=scores["size_mb"],
            latencies=[LatencyRow(**row) for row in latencies.get(name, [])],
            writing=[WritingRow(**row) for row in writing.get(name, [])],
        )
        for name, scores in artefacts.items()
    ]


def _augmented(distilled: dict[str, Any]) -> dict[str, int]:
    return {"augmented": distilled["augmented"]} if distilled.get("augmented") else {}


def _each_stage(results: dict[str, Any]) -> dict[str, Any]:
    """The results with those of distillation's earlier stages before the last one's, by the student that each left."""
    each: dict[str, Any] = {}
    for name, result in results.items():
        each |= {**result.get("stages", {}), name: result}
    return each


def _layers(results: dict[str, Any]) -> dict[str, Any]:
    distilled = results.get("distill", {})
    return {
        "layer_maps": [
            LayerMap(name=name if stage == "distill" else f"{name} ({stage})", pairs=pairs)
            for stage, result in results.items()
            for name, pairs in result.get("layer_maps", {}).items()
        ],
        "student_layers": distilled.get("student_layers"),
        "teacher_layers": distilled.get("teacher_layers"),
    }


def _trainings(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What each training run left, by the name of its model."""
    return {run: result for stage, parts in results.items() for run, result in _trained(stage, parts).items()}


def _trained(stage: str, result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What each model that a stage has trained left, by its name."""
    parts: dict[str, dict[str, Any]] = {**result.get("teachers", {}), **result.get("controls", {})}
    if "log_history" in result:  # of one model alone
        return {"student" if stage == "distill" else stage: result}
    return parts


def _curves(results: dict[str, Any]) -> list[Curve]:
    curves = []
    for run, result in _trainings(results).items():
        logs = [log for log in result["log_history"] if "loss" in log]
        steps, terms = [log["step"] for log in logs], result.get("terms", [])
        for term in ["loss", *terms] if len(terms) > 1 else terms:
            curves.append(Curve(run=run, term=term, steps=steps, values=[log[term] for log in logs]))
    return curves


def _cost(results: dict[str, Any], evaluated: dict[str, Any]) -> list[StageCost]:
    stages = []
    for name, result in {**results, "evaluate": evaluated}.items():
        trained = list(_trained(name, result).values())
        parameters = [model["parameters"] for model in trained if model.get("parameters")]
        sizes = [model["size_mb"] for model in trained if model.get("size_mb")]
        sizes += [artefact["size_mb"] for artefact in result.get("artefacts", {}).values()] if name == "export" else []
        stages.append(
            StageCost(
                name=name,
                seconds=result["seconds"],
                parameters=max(parameters, default=None),
                size_mb=sum(sizes) or None,
            )
        )
    return stages
