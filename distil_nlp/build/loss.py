"""What a recipe says of the loss: its terms, what changes them while training goes on, and what balances them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from distil_nlp.build.outside import objective_class
from distil_nlp.data.tasks import TASKS
from distil_nlp.errors import RecipeError, near_match
from distil_nlp.objectives import Objective
from distil_nlp.recipe import Recipe
from distil_nlp.recipe.errors import without_quotes
from distil_nlp.recipe.stages import Stage
from distil_nlp.training import WEIGHTINGS, Schedule, ScheduleCallback, Weighting
from distil_nlp.training.schedules import schedule_from

_SIMPLE: dict[str, tuple[Any, str]] = {  # parameters of these types say nothing themselves about a value of another
    "float": ((int, float), "a number"),
    "int": (int, "a whole number"),
    "bool": (bool, "true or false"),
    "str": (str, "a text"),
}


def make_objectives(
    recipe: Recipe, stage: Stage, arguments_of_task: Mapping[str, Any] | None = None
) -> list[Objective]:
    """New objectives as a stage lists them, or the task's own; what follows a schedule has its first value.

    Args:
        recipe: The recipe.
        stage: Of ``recipe.distillation``.
        arguments_of_task: Given to objectives that take them, where the recipe does not.

    Raises:
        RecipeError: for a name or a parameter that does not exist, rows that no objective would learn from, or an
            objective on predictions where nobody makes any, with the line of the recipe.
    """
    made: list[Objective] = []
    for name, arguments in _listed(recipe, stage).items():
        schedules = _schedules(recipe, stage, name)
        with _placed(recipe, stage.key(f"objectives.{name}")):
            cls = objective_class(name, recipe.code_folder)
            taken = inspect.signature(cls).parameters
            own = {key: value for key, value in (arguments_of_task or {}).items() if key in taken}
            first = {key: schedule(0.0) for key, schedule in schedules.items()}
            _check_arguments(name, arguments, taken, scheduled=schedules)
            try:
                made.append(cls(**{**own, **arguments, **first}))
            except TypeError as error:
                raise RecipeError(
                    f"objective '{name}' cannot be made with {arguments}.",
                    f"{error}".replace(f"{cls.__name__}.__init__() ", ""),
                    "docs/objectives.md lists the parameters of each objective.",
                ) from None
    if stage.text is not None:
        check_features_only(recipe, stage, made)
        return made
    for key in ("unlabelled", "augment"):
        if getattr(recipe.task, key) is not None and not any(objective.uses_teacher for objective in made):
            raise RecipeError(
                f"{recipe.line_of(f'task.{key}')}: the rows of task.{key} are labelled by the teacher alone.",
                f"No objective learns from it ({', '.join(objective.name for objective in made)}).",
                f"Add one that does, as logits_kl, or leave out {key}.",
            )
    return made


def check_features_only(recipe: Recipe, stage: Stage, objectives: Iterable[Objective]) -> None:
    """Refuses objectives that read a head, for a stage that the pre-trained checkpoint teaches: it has none yet.

    Some objectives say only when they are bound to two models what they read.

    Raises:
        RecipeError: for such an objective, with its line.
    """
    for name, objective in zip(_listed(recipe, stage), objectives, strict=True):
        if (objective.student_needs | objective.teacher_needs).head:
            key = stage.key(f"objectives.{name}")
            raise RecipeError(
                f"{recipe.line_of(key)}: '{key}' cannot be used in a stage with `text`.",
                f"{name} is about predictions, and the pre-trained checkpoint, which teaches there, has no head for "
                "the task yet.",
                "Use objectives on features, as hidden_states, attentions and minilm_v2, or leave out `text`.",
            )


def make_schedules(recipe: Recipe, stage: Stage, objectives: list[Objective]) -> list[ScheduleCallback]:
    """Callbacks for the weights and temperatures that follow a schedule.

    Args:
        recipe: The recipe.
        stage: Of ``recipe.distillation``.
        objectives: What :func:`make_objectives` made of it.

    Raises:
        RecipeError: for a parameter that cannot follow it, with the line of the recipe.
    """
    made = []
    for name, objective in zip(_listed(recipe, stage), objectives, strict=True):
        for key, schedule in _schedules(recipe, stage, name).items():
            with _placed(recipe, stage.key(f"objectives.{name}.{key}")):
                made.append(ScheduleCallback(objective, key, schedule))
    return made


def make_weighting(recipe: Recipe, stage: Stage) -> Weighting | None:
    """The adaptive weighting that a stage asks for.

    Raises:
        RecipeError: for a parameter out of range, with the line of the recipe.
    """
    section = stage.weighting
    if section is None:
        return None
    with _placed(recipe, stage.key("weighting")):
        return WEIGHTINGS[section.method](**section.parameters)


def _check_arguments(
    name: str, given: Mapping[str, Any], taken: Mapping[str, inspect.Parameter], *, scheduled: Mapping[str, Any]
) -> None:
    """Refuses parameters that the objective lacks, and a text, say, where it takes a number."""
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    for key, value in given.items():
        if key not in taken and not open_ended:
            raise RecipeError(f"the objective '{name}' has no parameter '{key}'.", near_match(key, taken))
        if key in scheduled:  # which says itself what it may be
            continue
        annotation = taken[key].annotation if key in taken else None
        kind = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
        types, needed = _SIMPLE.get(kind, (object, ""))
        if isinstance(value, types) and not (isinstance(value, bool) and kind in ("float", "int")):
            continue
        raise RecipeError(f"'{name}.{key}' cannot be {value!r}.", f"It needs {needed}.", without_quotes(value))


def _listed(recipe: Recipe, stage: Stage) -> Mapping[str, Mapping[str, Any]]:
    return stage.objectives or TASKS[recipe.task.name](recipe.task).default_objectives


def _schedules(recipe: Recipe, stage: Stage, name: str) -> dict[str, Schedule]:
    made = {}
    for key, value in _listed(recipe, stage)[name].items():
        if isinstance(value, Mapping) and "schedule" in value:
            with _placed(recipe, stage.key(f"objectives.{name}.{key}")):
                made[key] = schedule_from(value)
    return made


@contextmanager
def _placed(recipe: Recipe, key: str) -> Iterator[None]:
    try:
        yield
    except RecipeError as error:
        raise RecipeError(f"{recipe.line_of(key)}: {error.asked}", error.found, error.fix) from error.__cause__
