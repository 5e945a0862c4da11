"""Label columns of any kind, to ids with names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Dataset

from distil_nlp.data.classes import parse_classes
from distil_nlp.errors import DataError, listed

NO_LABEL = -1
"""The id of a row whose label is missing."""

NO_CLASS = -2
"""The id of a row whose label fits none of the ``classes``."""

_WHOLE = re.compile(r"([+-]?(?:0|[1-9]\d*))(?:\.0*)?")


def is_missing(value: Any) -> bool:
    """Whether a value stands for no label: None, NaN, or an empty text."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def is_secret(value: Any) -> bool:
    """Whether a value may stand for a label that is kept secret: -1, alone in a list of labels, or none at all."""
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    return is_missing(value) or str(value).strip() in ("-1", "-1.0")


@dataclass(frozen=True)
class Labels:
    """The names in the order of their ids, and the id of each row of each split."""

    names: list[str]
    ids: dict[str, list[int]]


def encode_labels(
    splits: Mapping[str, Dataset],
    column: str,
    *,
    rules: Mapping[str, str] | None = None,
    known_names: list[str] | None = None,
) -> Labels:
    """Turns a label column into ids.

    With ``rules``, ids follow their order. A ``ClassLabel`` of the training rows keeps its names, whole numbers of
    other splits are its ids, and names that it lacks come after its own. Otherwise whole numbers are sorted by value,
    booleans false first, and strings by code point; ``known_names`` names the numbers 0, 1, ... or gives the order of
    the strings. Texts are whole numbers if each number is written in one way (but for ``1.0``) without leading zeros.

    Args:
        splits: The rows, by split.
        column: The label column.
        rules: Class names and their rules, as :func:`~distil_nlp.data.classes.parse_classes` reads them.
        known_names: The names of the ids, where the data gives them.

    Raises:
        DataError: The column is not a class label, or has fewer than two classes.
        RecipeError: A rule cannot be read.
    """
    known = class_names(splits["train"].features[column])
    values = {split: _values(rows, column, known) for split, rows in splits.items()}
    present = {value for found in values.values() for value in found if value is not None}
    if rules is not None:
        names, table = _by_rules(rules, present, column)
    elif known is not None:
        names, table = _by_name(present, column, known)
    else:
        names, table = _by_value(present, column, known_names)
    if len(names) < 2:
        raise DataError(
            f"The label column '{column}' has fewer than two classes.",
            f"It has {names or 'no label at all'}.",
            "Name the right column as `label`, or add rows of another class.",
        )
    table[None] = NO_LABEL
    return Labels(names, {split: [table[value] for value in found] for split, found in values.items()})


def class_names(feature: Any) -> list[str] | None:
    """The names of a ``ClassLabel``; None of any other type."""
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def _values(rows: Dataset, column: str, known: list[str] | None) -> list[Any]:
    """Returns the column's values, class ids by their names, and None for whatever stands for no label."""
    feature, values = rows.features[column], rows[column][:]
    if any(isinstance(value, list | dict) for value in values):
        raise DataError(
            f"The label column '{column}' does not hold one label a row.",
            f"Its type is {feature}.",
            "Name another column as `label`.",
        )
    values = [value.strip() if isinstance(value, str) else value for value in values]
    values = [None if is_missing(value) else value for value in values]
    names = class_names(feature) or known
    return values if names is None else _names_of_ids(values, names, column)


def _names_of_ids(values: list[Any], names: list[str], column: str) -> list[Any]:
    """Whole numbers by the names whose ids they are, None below 0; other values as they are."""
    present = {value for value in values if value is not None}
    digits = _digits(present)
    if digits is None or present <= set(names):
        return values
    ids = {value: int(text) for value, text in digits.items()}
    if ids and max(ids.values()) >= len(names):
        raise _ids_without_name(column, names, ids.values())
    return [None if value is None or ids[value] < 0 else names[ids[value]] for value in values]


def _digits(present: set[Any]) -> dict[Any, str] | None:
    """The digits of each value, or None if some value is no whole number."""
    forms = {value: _WHOLE.fullmatch(str(value)) for value in present}
    return None if None in forms.values() else {value: form[1] for value, form in forms.items() if form}


def _ids_without_name(column: str, names: list[str], ids: Iterable[int]) -> DataError:
    return DataError(
        f"The label names do not fit the label column '{column}'.",
        f"There are {len(names)}, and the ids go from {min(ids)} to {max(ids)}.",
        "Give one name for each id from 0.",
    )


def _by_rules(rules: Mapping[str, str], present: set[Any], column: str) -> tuple[list[str], dict[Any, int]]:
    class_of, names = parse_classes(rules), list(rules)
    found = {value: class_of(value) for value in present}
    for index, name in enumerate(names):
        if index not in found.values():
            raise DataError(
                f"No row fits class '{name}' ({rules[name]!r}).",
                f"The column '{column}' has {_shown(present)}.",
                "Correct the rules of `classes`, or name another column as `label`.",
            )
    return names, {value: NO_CLASS if index is None else index for value, index in found.items()}


def _by_name(present: set[Any], column: str, known: list[str]) -> tuple[list[str], dict[Any, int]]:
    """The names of the training rows' ``ClassLabel``, then those that only other splits have."""
    others = present.difference(known)
    if not all(isinstance(value, str) for value in others):
        raise DataError(
            f"The label column '{column}' is not of one type in all splits.",
            f"Its training rows have the names {_shown(set(known))}; others have {_shown(others)}.",
            "Give all splits the same names, or their ids.",
        )
    names = known + sorted(others)
    return names, {name: index for index, name in enumerate(names)}


def _by_value(present: set[Any], column: str, known_names: list[str] | None) -> tuple[list[str], dict[Any, int]]:
    asked = f"The label column '{column}' is not a class label."
    kinds = {type(value) for value in present}
    digits = _digits(present)
    numbers = sorted(map(int, set((digits or {}).values())))
    if digits is not None and len(set(numbers)) == len(numbers):  # no number is written in two ways
        if known_names is not None:
            if numbers and not 0 <= numbers[0] <= numbers[-1] < len(known_names):
                raise _ids_without_name(column, known_names, numbers)
            return known_names, {value: int(text) for value, text in digits.items()}
        ids = {number: index for index, number in enumerate(numbers)}
        return [str(number) for number in numbers], {value: ids[int(text)] for value, text in digits.items()}
    if kinds == {bool}:
        return ["false", "true"], {False: 0, True: 1}
    if kinds == {str}:
        names = sorted(present) if known_names is None else known_names
        if unknown := present - set(names):
            raise DataError(
                f"The label_names do not fit the label column '{column}'.",
                f"They lack {_shown(unknown)}.",
                "Name every label.",
            )
        return names, {name: index for index, name in enumerate(names)}
    if kinds <= {int, float}:
        raise DataError(
            asked,
            f"It has numbers from {min(present):g} to {max(present):g}.",
            'Cut it into classes: `classes: {negative: "< 0", positive: "> 0"}`, say.',
        )
    raise DataError(
        asked,
        f"Its values are of type {' and '.join(sorted(kind.__name__ for kind in kinds))}.",
        "Use one type.",
    )


def _shown(values: set[Any], most: int = 10) -> str:
    """Lists values, or gives the range of numbers when there are many."""
    if len(values) > most and all(isinstance(value, int | float) for value in values):
        return f"numbers from {min(values):g} to {max(values):g}"
    return listed(sorted(map(str, values)), most)
