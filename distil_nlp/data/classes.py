"""Rules that make classes of a column: ``{negative: "< 0", positive: "> 0"}``, ``{no: "0", yes: "1"}``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from distil_nlp.errors import DataError, RecipeError

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_COMPARISON = re.compile(rf"(<=|<|>=|>|==)\s*({_NUMBER})")
_RANGE = re.compile(rf"({_NUMBER})\s*\.\.\s*({_NUMBER})")
_HOW = 'Write "< 0", "<= 0", "> 0", ">= 0", "== 0" or "0..1" for numbers, or the label itself.'


@dataclass(frozen=True)
class Span:
    """A range of numbers, each end in it or not."""

    low: float = -math.inf
    high: float = math.inf
    has_low: bool = True
    has_high: bool = True

    def __contains__(self, value: float) -> bool:
        above = value >= self.low if self.has_low else value > self.low
        return above and (value <= self.high if self.has_high else value < self.high)

    def meets(self, other: Span) -> bool:
        """Whether some number is in both."""
        low, high = max(self.low, other.low), min(self.high, other.high)
        return low < high or (low == high and low in self and low in other)


def parse_span(rule: str) -> Span | None:
    """Reads one rule about numbers; ``lo..hi`` has both its ends. Returns None for a plain label."""
    rule = rule.strip()
    if form := _RANGE.fullmatch(rule):
        return Span(float(form[1]), float(form[2]))
    if re.fullmatch(_NUMBER, rule):
        return Span(float(rule), float(rule))
    form = _COMPARISON.fullmatch(rule)
    if form is None:
        return None
    sign, number = form[1], float(form[2])
    if sign == "==":
        return Span(number, number)
    has_end = sign.endswith("=")
    return Span(high=number, has_high=has_end) if sign[0] == "<" else Span(low=number, has_low=has_end)


def parse_classes(rules: Mapping[str, str]) -> Callable[[Any], int | None]:
    """Returns the function from a value to the id of its class, in the order of the rules.

    The function returns None for a value that fits no class; it raises DataError for one that is no number
    where the rules are about numbers.

    Raises:
        RecipeError: A rule cannot be read, no number fits it, it overlaps another, or both kinds are mixed.
    """
    spans = {name: parse_span(str(rule)) for name, rule in rules.items()}
    for name, span in spans.items():
        if span is None and str(rules[name]).strip()[:1] in ("<", ">", "=", ""):
            raise RecipeError(f"Cannot read the rule of class '{name}'.", f"It is {rules[name]!r}.", _HOW)
        if span is not None and span.low > span.high:
            raise RecipeError(
                f"No number fits the rule of class '{name}'.",
                f"It is {rules[name]!r}.",
                "Put the smaller end first.",
            )
    numeric = {name: span for name, span in spans.items() if span is not None}
    if not numeric:
        return _by_label({name: str(rule).strip() for name, rule in rules.items()})
    if len(numeric) < len(spans):
        odd = next(name for name, span in spans.items() if span is None)
        raise RecipeError(
            "The rules of `classes` are of two kinds.",
            f"That of '{odd}', {rules[odd]!r}, is a label; that of '{next(iter(numeric))}' is about numbers.",
            _HOW,
        )
    for (one, first), (other, second) in combinations(numeric.items(), 2):
        if first.meets(second):
            raise RecipeError(
                f"Classes '{one}' and '{other}' overlap.",
                f"Some numbers fit both {rules[one]!r} and {rules[other]!r}.",
                "Make the rules exclude each other.",
            )
    return _by_number(list(numeric.values()))


def _by_label(labels: dict[str, str]) -> Callable[[Any], int | None]:
    ids = {label: index for index, label in enumerate(labels.values())}
    if len(ids) < len(labels):
        raise RecipeError("Two classes have the same rule.", f"They are {labels}.", "Give each label to one class.")
    return lambda value: ids.get(str(value).strip())


def _by_number(spans: list[Span]) -> Callable[[Any], int | None]:
    def class_of(value: Any) -> int | None:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise DataError(
                "Cannot cut the label column into classes.",
                f"{value!r} is not a number.",
                "Correct the value, or name a numeric column as `label`.",
            ) from None
        return next((index for index, span in enumerate(spans) if number in span), None)

    return class_of
