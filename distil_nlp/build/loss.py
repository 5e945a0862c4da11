"""What a recipe says of the loss: its terms, what changes them while training goes on, and what balances them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from distil_nlp.build.outside import objective_class
from distil_nlp.data.tasks import TASKS
from distil_nlp.errors import RecipeError
from distil_nlp.objectives import Objective
from distil_nlp.recipe import Recipe
from distil_nlp.training import WEIGHTINGS, Schedule, ScheduleCallback, Weighting
from distil_nlp.training.schedules import schedule_from


def make_objectives(recipe: Recipe, arguments_of_task: Mapping[str, Any] | None = None) -> list[Objective]:
    """New objectives as the recipe lists them, or the task's own; what follows a schedule has its first value.

    Args:
        recipe: The recipe.
        arguments_of_task: Given to objectives that take them, where the recipe does not.

    Raises:
        RecipeError: for a name or a parameter that does not exist, or rows that no objective would learn from, with
            the line of the recipe.
    """
    made: list[Objective] = []
    for name, arguments in _listed(recipe).items():
        schedules = _schedules(recipe, name, arguments)
        with _placed(recipe, f"objectives.{name}"):
            cls = objective_class(name, recipe.code_folder)
            taken = inspect.signature(cls).parameters
            own = {key: value for key, value in (arguments_of_task or {}).items() if key in taken}
            first = {key: schedule(0.0) for key, schedule in schedules.items()}
            try:
                made.append(cls(**{**own, **arguments, **first}))
            except TypeError as error:
                raise RecipeError(
                    f"objective '{name}' cannot be made with {arguments}.",
                    f"{error}".replace(f"{cls.__name__}.__init__() ", ""),
                    "docs/objectives.md lists the parameters of each objective.",
                ) from None
    for key in ("unlabelled", "augment"):
        if getattr(recipe.task, key) is not None and not any(objective.uses_teacher for objective in made):
            raise RecipeError(
                f"{recipe.line_of(f'task.{key}')}: the rows of task.{key} are labelled by the teacher alone.",
                f"No objective learns from it ({', '.join(objective.name for objective in made)}).",
                f"Add one that does, as logits_kl, or leave out {key}.",
            )
    return made


def make_schedules(recipe: Recipe, objectives: list[Objective]) -> list[ScheduleCallback]:
    """Callbacks for the weights and temperatures that follow a schedule.

    Args:
        recipe: The recipe.
        objectives: What :func:`make_objectives` made of it.

    Raises:
        RecipeError: for a parameter that cannot follow it, with the line of the recipe.
    """
    made = []
    for (name, arguments), objective in zip(_listed(recipe).items(), objectives, strict=True):
        for key, schedule in _schedules(recipe, name, arguments).items():
            with _placed(recipe, f"objectives.{name}.{key}"):
                made.append(ScheduleCallback(objective, key, schedule))
    return made


def make_weighting(recipe: Recipe) -> Weighting | None:
    """The adaptive weighting that the recipe asks for.

    Raises:
        RecipeError: for a parameter out of range, with the line of the recipe.
    """
    section = recipe.weighting
    if section is None:
        return None
    with _placed(recipe, "weighting"):
        return WEIGHTINGS[section.method](**section.parameters)


def _listed(recipe: Recipe) -> Mapping[str, Mapping[str, Any]]:
    return recipe.objectives or TASKS[recipe.task.name](recipe.task).default_objectives


def _schedules(recipe: Recipe, name: str, arguments: Mapping[str, Any]) -> dict[str, Schedule]:
    made = {}
    for key, value in arguments.items():
        if isinstance(value, Mapping) and "schedule" in value:
            with _placed(recipe, f"objectives.{name}.{key}"):
                made[key] = schedule_from(value)
    return made


@contextmanager
def _placed(recipe: Recipe, key: str) -> Iterator[None]:
    try:
        yield
    except RecipeError as error:
        raise RecipeError(f"{recipe.line_of(key)}: {error.asked}", error.found, error.fix) from error.__cause__
