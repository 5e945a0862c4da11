"""Label columns that hold a list a row, or a number."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from datasets import ClassLabel, Dataset, Sequence

from distil_nlp.data.labels import is_missing
from distil_nlp.errors import DataError, near_match

_ENTITY = re.compile("[BIES]-.+")


def encode_label_lists(
    splits: Mapping[str, Dataset], column: str, *, key: str = "label", known_names: list[str] | None = None
) -> tuple[dict[str, list[list[int] | None]], Sequence]:
    """Turns a column of lists of labels into lists of ids.

    Lists of ``ClassLabel`` keep their names. Otherwise whole numbers are sorted by value, and other labels by code
    point; ``known_names`` names the numbers 0, 1, ... or gives the order of the others.

    Args:
        splits: The rows, by split.
        column: The label column.
        key: The recipe's key that names it.
        known_names: The names of the ids, where the data gives them.

    Returns:
        The ids of each row by split, None for a row without a list, and the type of the column.

    Raises:
        DataError: The column does not hold lists of labels.
    """
    feature = splits["train"].features[column]
    inner = getattr(feature, "feature", None)
    values = {name: rows[column][:] for name, rows in splits.items()}
    for name, found in values.items():
        for row, labels in enumerate(found):
            if labels is not None and not (isinstance(labels, list) and all(map(_is_label, labels))):
                raise DataError(
                    f"The column '{column}' does not hold a list of labels a row.",
                    f"Its type is {feature}; row {row + 1} of {name} has {labels!r}.",
                    f"Name the right column as `{key}`.",
                )
    present = {label for found in values.values() for labels in found for label in labels or ()}
    names, ids = _ids(present, inner.names if isinstance(inner, ClassLabel) else None, known_names)
    unknown = sorted(str(label) for label in present if label not in ids)
    if unknown or len(names) < 2:
        raise DataError(
            f"The labels in '{column}' do not fit.",
            f"Some row has '{unknown[0]}'. {near_match(unknown[0], names)}" if unknown else f"There are only {names}.",
            f"Correct the label_names of meta.json, or name another column as `{key}`.",
        )
    encoded = {
        name: [None if labels is None else [ids[label] for label in labels] for labels in found]
        for name, found in values.items()
    }
    return encoded, Sequence(ClassLabel(names=names))


def _is_label(value: Any) -> bool:
    return isinstance(value, str | int | bool)


def _ids(
    present: set[Any], class_names: list[str] | None, known_names: list[str] | None
) -> tuple[list[str], dict[Any, int]]:
    """Names of labels, and the id of each label."""
    are_numbers = all(type(label) is int for label in present)
    found = sorted(present, key=None if are_numbers else str)
    names = class_names or known_names or list(map(str, found))
    if class_names is not None or (known_names is not None and are_numbers):
        return names, {index: index for index in range(len(names))}
    return names, {label: index for index, label in enumerate(known_names or found)}


def is_entity_tag(tag: str) -> bool:
    """Whether a tag marks a word as part of an entity: ``B-PER``, say, of the schemes IOB and IOBES."""
    return _ENTITY.fullmatch(tag) is not None


def numbers(
    rows: Dataset,
    column: str,
    *,
    fix: str = "Name another column as `label`, or leave out `problem: regression`.",
) -> list[float | None]:
    """A column of numbers, which may be written as text; None where there is none.

    Args:
        rows: Rows as found.
        column: The column.
        fix: What to do about a column without numbers.

    Raises:
        DataError: for anything that is not a finite number.
    """
    found: list[float | None] = []
    of_classes = isinstance(rows.features[column], ClassLabel)
    for row, value in enumerate(rows[column][:]):
        if is_missing(value) or (of_classes and value < 0):
            found.append(None)
            continue
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise DataError(
                f"The column '{column}' does not hold numbers.",
                f"Row {row + 1} has {value!r}.",
                fix,
            )
        found.append(number)
    return found
