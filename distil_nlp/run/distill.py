"""The stage ``distill`` of a run: the student's way through all stages of distillation."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from distil_nlp.build import Assembly
from distil_nlp.build.assembly import Lesson
from distil_nlp.build.teaching import make_stored
from distil_nlp.objectives import LayerObjective
from distil_nlp.recipe.stages import Stage
from distil_nlp.run import Run
from distil_nlp.run.training import train


def distill(run: Run) -> dict[str, Any]:
    """Trains the student under the objectives of each stage in turn; a stage that has finished is not done again.

    Each stage starts from the student that the one before it has saved, whether or not the run was interrupted there.
    """
    teachers = run.saved("teacher")
    [teacher, *_] = teachers.values()
    copies = run.parts.copies(teacher)
    parts = run.parts.for_student(teacher, copies)
    teachers = {name: parts.trimmed(model) for name, model in teachers.items()}
    [teacher, *_] = teachers.values()
    student = parts.student(teacher)
    guide = parts.guide(teachers)
    rows, augmented = parts.student_rows(teacher, copies, run.folder.path)
    on_task = Lesson(teacher, guide, rows)
    *earlier, last = run.recipe.distillation
    stages = {}
    for stage in earlier:
        stages[stage.model] = run.once(stage.model, partial(_timed, run, stage, student, parts, on_task))
        student = parts.trained(run.folder.model(stage.model))
    return {
        **run.once(last.model, partial(_timed, run, last, student, parts, on_task)),
        "stages": stages,
        "augmented": augmented,
        "student_layers": student.config.get_text_config().num_hidden_layers,
        "teacher_layers": teacher.config.get_text_config().num_hidden_layers,
    }


def steps_on_the_task(run: Run) -> int:
    """For how many steps the student has seen the task's rows, over all stages."""
    distilled = run.folder.result("distill")
    *earlier, _ = run.recipe.distillation
    before = [distilled["stages"][stage.model]["steps"] for stage in earlier if stage.text is None]
    return int(distilled["steps"] + sum(before))


def _timed(run: Run, stage: Stage, student: PreTrainedModel, parts: Assembly, on_task: Lesson) -> dict[str, Any]:
    started = time.perf_counter()
    result = _train_stage(run, stage, student, parts, parts.lesson(stage, on_task))
    return {**result, "seconds": time.perf_counter() - started}


def _train_stage(run: Run, stage: Stage, student: PreTrainedModel, parts: Assembly, lesson: Lesson) -> dict[str, Any]:
    loss = parts.loss(student, lesson.teacher, stage, lesson.rows)
    stored = None
    if stage.text is None:
        stored = make_stored(run.recipe, lesson.guide, run.folder.path / "teacher_outputs", loss["objectives"])
    if stored is not None:
        stored.expected_rows = _rows_trained_on(run, stage, len(lesson.rows))
    taught = {"teacher": stored or lesson.guide, "rows": lesson.rows}
    result = train(run, stage.model, student, parts, arguments=stage.training, **taught, **loss)
    maps = {o.name: o.layer_map for o in loss["objectives"] if isinstance(o, LayerObjective)}
    return {**result, "rows": len(lesson.rows), "layer_maps": maps}


def _rows_trained_on(run: Run, stage: Stage, rows: int) -> int:
    """How many of the student's rows its training asks the teacher for."""
    arguments = run.parts.training_arguments(stage.training, Path(run.folder.checkpoints / stage.model))
    if arguments.max_steps <= 0:
        return rows
    batch = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    return min(rows, arguments.max_steps * batch)
