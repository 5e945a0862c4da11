"""What can be known before the first step of training, and is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from tempfile import gettempdir
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from distil_nlp.blocks import describe, inner_model
from distil_nlp.build import Assembly
from distil_nlp.build.assembly import Lesson
from distil_nlp.build.loss import check_features_only
from distil_nlp.build.teaching import as_they_teach, knows_all, make_guide, make_stored
from distil_nlp.capture import capture, prepare_attention
from distil_nlp.data.augment import augmented
from distil_nlp.errors import ModelError, listed
from distil_nlp.evaluation.efficiency import count_parameters, weights_mb
from distil_nlp.export import check_rules
from distil_nlp.mapping import LayerPairs
from distil_nlp.objectives import LayerObjective, Objective
from distil_nlp.recipe.stages import Stage
from distil_nlp.signals import Batch, Needs, Signals
from distil_nlp.teachers import Teacher, as_teacher
from distil_nlp.training.checks import checked_objectives

TEACHER_ROWS = 512  # enough to tell a teacher from a coin
MOST_PAIRS = 24  # that are listed


@dataclass(frozen=True)
class Preflight:
    """What a run would do.

    Attributes:
        rows: Rows of each split.
        dropped: Rows left out, by reason.
        label_names: In the order of their ids.
        majority_baseline: Accuracy on the test rows of always giving the commonest label, where rows have one each.
        layer_map: ``(student block, teacher block)`` by objective.
        terms: Weighted loss terms of one real batch, before the first step.
        parameters: Of teacher and student.
        memory_mb: Expected for weights, gradients, optimizer state and one batch's activations.
        augmented: Copies of training rows that the student gets, at most: some may repeat a text.
    """

    rows: dict[str, int]
    dropped: dict[str, int]
    label_names: list[str]
    majority_baseline: float | None
    layer_map: dict[str, LayerPairs]
    terms: dict[str, float]
    parameters: dict[str, int]
    memory_mb: dict[str, float]
    augmented: int = 0

    def lines(self) -> list[str]:
        """What to print."""
        rows = ", ".join(f"{name} {count:,}" for name, count in self.rows.items())
        rows += f", augmented up to {self.augmented:,}" if self.augmented else ""
        dropped = "".join(f"; {count} left out ({reason})" for reason, count in self.dropped.items())
        best = self.majority_baseline
        alone = "" if best is None else f"; the commonest alone is right in {best:.3f}"
        total = sum(self.memory_mb.values())
        parts = ", ".join(f"{name} {size:.0f}" for name, size in self.memory_mb.items())
        return [
            f"rows        {rows}{dropped}",
            *([f"labels      {listed(self.label_names, 8)}{alone}"] if self.label_names else []),
            *(f"layers      {name}: {_pairs(pairs)}" for name, pairs in self.layer_map.items()),
            "terms       " + ", ".join(f"{name} {value:.4g}" for name, value in self.terms.items()),
            "parameters  " + ", ".join(f"{name} {count:,}" for name, count in self.parameters.items()),
            f"memory      about {total:,.0f} MB ({parts})",
        ]


def check(assembly: Assembly, teachers: Mapping[str, PreTrainedModel] | None = None) -> Preflight:
    """Builds everything once, runs one real batch through it, and measures.

    Args:
        assembly: The recipe's parts.
        teachers: The run's saved teachers by name, if it has them already.

    Raises:
        DistilError: for whatever would stop the run later.
    """
    recipe = assembly.recipe
    stages = [(stage, assembly.objectives(stage)) for stage in recipe.distillation]
    summary, _ = assembly.data.summary, assembly.metrics
    untaught = [("a teacher", key, arguments) for key, arguments in recipe.teacher.trainings().items()]
    untaught += [("a control, which has no teacher,", "training", recipe.training)] if recipe.control else []
    for of, key, arguments in untaught:
        assembly.checked_arguments(key, arguments, of=of, terms=["task_loss"], rows=summary.rows["train"])
    teachers = _tried_teachers(assembly, teachers)
    [teacher, *_] = teachers.values()
    copies = _try_augmentation(assembly, teacher)
    parts = assembly.for_student(teacher, None)  # copies may add a few tokens, and take long to make
    guides = {name: parts.trimmed(model) for name, model in teachers.items()}
    [teacher, *_] = guides.values()
    student = parts.student(teacher)
    if recipe.export is not None and assembly.task.predicts == "text":
        check_rules(student.generation_config)
    guides = as_they_teach(recipe, guides)
    [teacher, *_] = guides.values()
    lesson = Lesson(teacher, parts.guide(guides), parts.rows["train"])
    tried = [_try_stage(parts, stage, objectives, student, lesson) for stage, objectives in stages]
    parameters = {"teacher": sum(map(count_parameters, teachers.values())), "student": count_parameters(student)}
    needed = {"teacher": sum(map(weights_mb, guides.values())), "student": 16 * parameters["student"] / 1e6}
    return Preflight(
        rows=summary.rows
        | {stage.name: each.rows for (stage, _), each in zip(stages, tried, strict=True) if stage.text},
        dropped=summary.dropped,
        label_names=summary.label_names,
        majority_baseline=summary.majority_baseline,
        layer_map={
            _term(stage, o.name): o.layer_map
            for stage, objectives in stages
            for o in objectives
            if isinstance(o, LayerObjective)
        },
        terms={name: value for each in tried for name, value in each.terms.items()},
        parameters=parameters,
        memory_mb=_memory(assembly, teachers, needed) | {"activations": max(each.activations_mb for each in tried)},
        augmented=copies,
    )


def _tried_teachers(assembly: Assembly, saved: Mapping[str, PreTrainedModel] | None) -> Mapping[str, PreTrainedModel]:
    """The run's teachers, or those that the recipe names: before their fine-tuning, or else not weak."""
    members = assembly.recipe.teachers
    teachers = saved or {name: assembly.teacher(member) for name, member in members.items()}
    if saved is not None or all(member.fine_tune is None for member in members.values()):
        refuse_weak_members(assembly, teachers)
        if len(teachers) > 1:  # exact yet: one of them is to give the student its layers
            refuse_weak_teacher(assembly, make_guide(assembly.recipe, teachers, assembly.label_names))
    return teachers


def _try_augmentation(assembly: Assembly, teacher: PreTrainedModel) -> int:
    """Makes the copies of a few rows, and says how many there are of all at most."""
    how, rows = assembly.augmentation(teacher), assembly.data.splits["train"]
    if how is None:
        return 0
    augmented(rows.select(range(min(8, len(rows)))), list(assembly.task.text_columns), how)
    return len(rows) * how.copies


class _Tried(NamedTuple):
    """What a batch of one stage showed."""

    terms: dict[str, float]
    activations_mb: float
    rows: int


def _term(stage: Stage, name: str) -> str:
    return f"{stage.name}: {name}" if stage.name else name


def _try_stage(
    parts: Assembly, stage: Stage, objectives: list[Objective], student: PreTrainedModel, on_task: Lesson
) -> _Tried:
    """Runs one batch of a stage; the student is that before the first stage."""
    lesson = parts.lesson(stage, on_task)
    parts.choose_layers(objectives, student, lesson.teacher, lesson.rows)
    guide = as_teacher(lesson.guide)
    key, names = stage.key("training"), [objective.name for objective in objectives]
    arguments = parts.checked_arguments(key, stage.training, of="the student", terms=names, rows=len(lesson.rows))
    objectives = checked_objectives(objectives, guide, label_smoothing=arguments.label_smoothing_factor)
    terms, activations = _terms(objectives, student, guide, _one_batch(parts, stage, lesson.rows))
    if stage.text is not None:
        check_features_only(parts.recipe, stage, objectives)
    else:
        _try_store(parts, guide, objectives)
    return _Tried({_term(stage, name): value for name, value in terms.items()}, activations, len(lesson.rows))


def _try_store(assembly: Assembly, guide: Teacher, objectives: list[Objective]) -> None:
    """Refuses a store that cannot hold what the objectives need, before anything is trained or written."""
    stored = make_stored(assembly.recipe, guide, Path(gettempdir()), objectives)
    if stored is not None:
        stored.contents(reduce(or_, (objective.teacher_needs for objective in objectives)))


def refuse_weak_members(assembly: Assembly, teachers: Mapping[str, PreTrainedModel]) -> None:
    """Refuses a teacher that has learned nothing; of one that knows only some labels that cannot be told.

    Args:
        assembly: The recipe's parts.
        teachers: Some of its teachers by name.

    Raises:
        ModelError: with the figures.
    """
    for name, model in teachers.items():
        if knows_all(model, assembly.label_names):
            refuse_weak_teacher(assembly, model, name)


def refuse_weak_teacher(assembly: Assembly, teacher: PreTrainedModel | Teacher, name: str = "teacher") -> None:
    """Refuses a teacher that is no better on the validation rows than one answer for all.

    Raises:
        ModelError: with the figures.
    """
    rows = assembly.rows["validation"]
    chosen = sorted(np.random.default_rng(assembly.recipe.seed).permutation(len(rows))[:TEACHER_ROWS].tolist())
    rows = rows.select(chosen)
    batches = assembly.batches(rows)
    outputs = assembly.outputs_on(batches, teacher)
    weakness = assembly.task.weakness(outputs, rows)
    if weakness is not None:
        raise ModelError(
            f"A teacher must know the task before it can teach it{'' if name == 'teacher' else f' ({name})'}.",
            weakness,
            "Check that it was trained for these labels, give it `fine_tune`, or train it for longer.",
        )


def _one_batch(assembly: Assembly, stage: Stage, rows: Any) -> dict[str, Tensor]:
    size = int(stage.training.get("per_device_train_batch_size", 8))
    batch: Any = assembly.task.collator(assembly.tokenizer)([rows[i] for i in range(min(size, len(rows)))])
    return dict(batch)


def _terms(
    objectives: list[Objective], student: PreTrainedModel, guide: Teacher, batch: Batch
) -> tuple[dict[str, float], float]:
    """Weighted terms of one batch, and megabytes that the student keeps for its backward pass."""
    ours, theirs = Needs(), Needs()
    for objective in objectives:
        objective.bind(describe(inner_model(student)), guide.shape)
        ours, theirs = ours | objective.student_needs, theirs | objective.teacher_needs
    guide.prepare(theirs, torch.device("cpu"))
    if ours.attentions:
        prepare_attention(inner_model(student), "student")
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in student.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        signals: Signals = capture(student.train(), batch, ours)
        target = guide(batch, theirs)
        terms = {o.name: float(o(signals, target, batch).detach()) for o in objectives}
    return terms, sum(size for pointer, size in kept.items() if pointer not in weights) / 1e6


def _memory(assembly: Assembly, teachers: Mapping[str, PreTrainedModel], needed: dict[str, float]) -> dict[str, float]:
    """Megabytes of the stage that takes most: that in which a teacher is fine-tuned, or the student's.

    Training in float32 keeps weights, gradients and Adam's two moments: 16 bytes a parameter.
    """
    trained = [name for name, member in assembly.recipe.teachers.items() if member.fine_tune is not None]
    while_teaching = max((16 * count_parameters(teachers[name]) / 1e6 for name in trained), default=0.0)
    return {"teacher while it is fine-tuned": while_teaching} if while_teaching > sum(needed.values()) else needed


def _pairs(pairs: LayerPairs) -> str:
    if len(pairs) > MOST_PAIRS:
        return f"{len(pairs)} pairs"
    return ", ".join(f"{student} <- {teacher}" for student, teacher in pairs)
