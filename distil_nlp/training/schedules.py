"""Values that change over training."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, get_type_hints

from distil_nlp.errors import RecipeError, near_match
from distil_nlp.registry import Registry

SCHEDULES: Registry[type[Schedule]] = Registry("schedule")


class Schedule(abc.ABC):
    """A value as a function of training progress, which goes from 0 (the first step) towards 1."""

    @abc.abstractmethod
    def __call__(self, progress: float) -> float:
        """The value at a fraction of all optimizer steps."""

    @property
    @abc.abstractmethod
    def extremes(self) -> tuple[float, ...]:
        """The smallest and largest values that it takes, and whatever else is worth checking beforehand."""


@SCHEDULES.register("constant")
@dataclass(frozen=True)
class Constant(Schedule):
    """One value throughout.

    Args:
        value: The value.
    """

    value: float

    def __call__(self, progress: float) -> float:
        return self.value

    @property
    def extremes(self) -> tuple[float, ...]:
        return (self.value,)


@SCHEDULES.register("linear")
@dataclass(frozen=True)
class Linear(Schedule):
    """Straight from ``start`` to ``end``.

    Args:
        start: Value at the first step.
        end: Value that the last step comes near to.
    """

    start: float
    end: float

    def __call__(self, progress: float) -> float:
        return self.start + (self.end - self.start) * progress

    @property
    def extremes(self) -> tuple[float, ...]:
        return self.start, self.end


@SCHEDULES.register("cosine")
@dataclass(frozen=True)
class Cosine(Schedule):
    r"""Half a cosine from ``start`` to ``end``: :math:`end + (start - end) (1 + \cos(\pi p)) / 2`.

    Args:
        start: Value at the first step.
        end: Value that the last step comes near to.
    """

    start: float
    end: float

    def __call__(self, progress: float) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * progress)) / 2

    @property
    def extremes(self) -> tuple[float, ...]:
        return self.start, self.end


@SCHEDULES.register("warmup")
@dataclass(frozen=True)
class Warmup(Schedule):
    """Straight from 0 to ``value`` over the first part of training, and ``value`` from there on.

    Args:
        value: The final value.
        over: The fraction of training that it takes, above 0 and at most 1.
    """

    value: float
    over: float = 0.1

    def __post_init__(self) -> None:
        _check_fraction("over", self.over)

    def __call__(self, progress: float) -> float:
        return self.value * min(1.0, progress / self.over)

    @property
    def extremes(self) -> tuple[float, ...]:
        return 0.0, self.value


@SCHEDULES.register("switch")
@dataclass(frozen=True)
class Switch(Schedule):
    """One value up to a point, another from there on.

    Args:
        at: The fraction of training at which the value changes, above 0 and at most 1.
        before: Value before it.
        after: Value from it on.
    """

    at: float
    before: float
    after: float

    def __post_init__(self) -> None:
        _check_fraction("at", self.at)

    def __call__(self, progress: float) -> float:
        return self.before if progress < self.at else self.after

    @property
    def extremes(self) -> tuple[float, ...]:
        return self.before, self.after


def schedule_from(values: Mapping[str, Any]) -> Schedule:
    """The schedule that a recipe describes: ``{schedule: linear, start: 1.0, end: 0.2}``.

    Raises:
        RecipeError: for an unknown schedule, or a key that is missing, unknown or not a number.
    """
    kind = SCHEDULES[str(values["schedule"])]
    given = {key: value for key, value in values.items() if key != "schedule"}
    asked = f"The schedule '{values['schedule']}' cannot be made of {given}."
    known = get_type_hints(kind)
    needed = [
        field.name
        for field in fields(kind)  # type: ignore[arg-type]
        if field.name not in given and field.default is MISSING
    ]
    unknown = [key for key in given if key not in known]
    if unknown:
        raise RecipeError(asked, f"It has no '{unknown[0]}'.", near_match(str(unknown[0]), known))
    if needed:
        raise RecipeError(asked, f"It lacks {' and '.join(needed)}.", f"Give {', '.join(known)}.")
    for key, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise RecipeError(asked, f"'{key}' is {value!r}.", "A number is needed.")
    return kind(**{key: float(value) for key, value in given.items()})


def _check_fraction(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise RecipeError(
            f"'{name}: {value}' is a fraction of training.", "It must be above 0 and at most 1.", "0.1 is a tenth."
        )
