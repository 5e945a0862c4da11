"""What a recipe says of the loss: its terms, what changes them while training goes on, and what balances them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from distil_nlp.errors import RecipeError
from distil_nlp.objectives import Objective
from distil_nlp.outside import objective_class
from distil_nlp.recipe import Recipe
from distil_nlp.training import WEIGHTINGS, Schedule, ScheduleCallback, Weighting
from distil_nlp.training.schedules import schedule_from

DEFAULT_OBJECTIVES: dict[str, dict[str, Any]] = {
    "task_loss": {"weight": 0.5},
    "logits_kl": {"weight": 0.5, "temperature": 2.0},
}


def make_objectives(recipe: Recipe) -> list[Objective]:
    """New objectives as the recipe lists them, or the default ones; what follows a schedule has its first value.

    Raises:
        RecipeError: for a name or a parameter that does not exist, with the line of the recipe.
    """
    made = []
    for name, arguments in _listed(recipe).items():
        schedules = _schedules(recipe, name, arguments)
        with _placed(recipe, f"objectives.{name}"):
            cls = objective_class(name, recipe.code_folder)
            try:
                made.append(cls(**{**arguments, **{key: schedule(0.0) for key, schedule in schedules.items()}}))
            except TypeError as error:
                raise RecipeError(
                    f"objective '{name}' cannot be made with {arguments}.",
                    f"{error}".replace(f"{cls.__name__}.__init__() ", ""),
                    "docs/objectives.md lists the parameters of each objective.",
                ) from None
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


def _listed(recipe: Recipe) -> Mapping[str, dict[str, Any]]:
    return recipe.objectives or DEFAULT_OBJECTIVES


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
