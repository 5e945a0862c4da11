"""The stage ``distill`` of a run: the student's way through all stages of distillation."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from transformers import PreTrainedModel

from distil_nlp.build import Assembly
from distil_nlp.build.assembly import Lesson
from distil_nlp.objectives import LayerObjective
from distil_nlp.recipe.stages import Stage
from distil_nlp.run import Run
from distil_nlp.run.training import train


def distill(run: Run) -> dict[str, Any]:
    """Trains the student under the objectives of each stage in turn; a stage that has finished is not done again.

    Each stage starts from the student that the one before it has saved, whether or not the run was interrupted there.
    """
    started = time.perf_counter()  # what comes before the first stage is a part of its time
    parts, student, on_task, augmented = run.parts.begin(run.saved("teacher"), run.folder.path)
    results: dict[str, dict[str, Any]] = {}
    for stage in run.recipe.distillation:
        if results:
            student = parts.trained(run.folder.model(next(reversed(results))))
        train_stage = partial(_train_stage, run, stage, student, parts, on_task)
        results[stage.model] = run.once(stage.model, partial(_timed, train_stage, started))
        started = time.perf_counter()
    _, last = results.popitem()
    return {
        **last,
        "stages": results,
        "augmented": augmented,
        "student_layers": student.config.get_text_config().num_hidden_layers,
        "teacher_layers": on_task.teacher.config.get_text_config().num_hidden_layers,
    }


def steps_on_the_task(run: Run) -> int:
    """For how many steps the student has seen the task's rows, over all stages."""
    distilled = run.folder.result("distill")
    *earlier, _ = run.recipe.distillation
    before = [distilled["stages"][stage.model]["steps"] for stage in earlier if stage.text is None]
    return int(distilled["steps"] + sum(before))


def _timed(train_stage: Callable[[], dict[str, Any]], started: float) -> dict[str, Any]:
    return {**train_stage(), "seconds": time.perf_counter() - started}


def _train_stage(run: Run, stage: Stage, student: PreTrainedModel, parts: Assembly, on_task: Lesson) -> dict[str, Any]:
    lesson = parts.lesson(stage, on_task)
    taught = parts.taught(student, lesson, stage, run.folder.path)
    result = train(run, stage.model, student, parts, **taught)
    maps = {o.name: o.layer_map for o in taught["objectives"] if isinstance(o, LayerObjective)}
    return {**result, "rows": len(lesson.rows), "layer_maps": maps}
