"""Label columns that hold a list a row, or a number."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from datasets import ClassLabel, Dataset, Sequence

from distil_nlp.data.labels import class_names, is_missing
from distil_nlp.errors import DataError, near_match
from distil_nlp.signals import IGNORED

_ENTITY = re.compile("[BIES]-.+")


def encode_label_lists(
    splits: Mapping[str, Dataset], column: str, *, key: str = "label", known_names: list[str] | None = None
) -> tuple[dict[str, list[list[int] | None]], Sequence]:
    """Turns a column of lists of labels into lists of ids.

    Lists of ``ClassLabel`` of the training rows keep their names, whole numbers of other splits are their ids, and
    names that they lack come after their own. Otherwise whole numbers are sorted by value, and other labels by code
    point; ``known_names`` names the numbers 0, 1, ... or gives the order of the others. White space around a label
    does not count. Blank labels are left out, but not of ``tags``, one of which each word needs (``-100`` is none).

    Args:
        splits: The rows, by split.
        column: The label column.
        key: The recipe's key that names it.
        known_names: The names of the ids, where the data gives them.

    Returns:
        The ids of each row by split, None for a row without a list, and the type of the column.

    Raises:
        DataError: The column does not hold lists of labels, or a tag is blank.
    """
    known = _names_in_lists(splits["train"], column)
    values = {name: _lists(rows, name, column, key, known) for name, rows in splits.items()}
    present = {label for found in values.values() for labels in found for label in labels or ()}
    names, ids = _ids(present, known, known_names, column)
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


def refuse_ones_and_zeros(
    lists: Mapping[str, list[list[int] | None]], splits: Mapping[str, Dataset], column: str
) -> None:
    """Lists of 0 and 1, one for each label there is, would be read as the two labels 0 and 1.

    Args:
        lists: The ids of each row by split, as :func:`encode_label_lists` gives them.
        splits: The rows, by split.
        column: The label column.

    Raises:
        DataError: A list repeats a label, or all training rows have the same ones.
    """
    rows = [(name, row, labels) for name, found in lists.items() for row, labels in enumerate(found) if labels]
    repeated = next(((name, row) for name, row, labels in rows if len(set(labels)) < len(labels)), None)
    kinds = {frozenset(labels) for labels in lists["train"] if labels is not None}
    if repeated is not None or (len(kinds) == 1 and all(kinds)):
        name, row = repeated or next((name, row) for name, row, _ in rows if name == "train")
        what = "repeats one" if repeated else "all training rows have, in one order or another"
        raise DataError(
            f"The column '{column}' does not hold the labels that a row has.",
            f"Row {row + 1} of {name} has {splits[name][row][column]!r}, which {what}.",
            "List the labels of each row, each once, rather than a 0 or 1 for every label there is.",
        )


def _names_in_lists(rows: Dataset, column: str) -> list[str] | None:
    return class_names(getattr(rows.features[column], "feature", None))


def _lists(rows: Dataset, split: str, column: str, key: str, known: list[str] | None) -> list[list[Any] | None]:
    """The column's lists, class ids by their names."""
    names = _names_in_lists(rows, column) or known or []
    found = rows[column][:]
    for row, labels in enumerate(found):
        if labels is not None and not (isinstance(labels, list) and all(map(_is_label, labels))):
            raise DataError(
                f"The column '{column}' does not hold a list of labels a row.",
                f"Its type is {rows.features[column]}; row {row + 1} of {split} has {labels!r}.",
                f"Name the right column as `{key}`.",
            )
        if key == "tags" and any(is_missing(label) or label == IGNORED for label in labels or ()):
            raise DataError(
                f"Each word needs a tag in the column '{column}'.",
                f"Row {row + 1} of {split} has {labels!r}, one of which is none.",
                "Tag the word (as `O`, say), or leave out the row.",
            )
    return [labels and [_name(label, names) for label in labels if not is_missing(label)] for labels in found]


def _is_label(value: Any) -> bool:
    return isinstance(value, str | int | bool)


def _name(label: Any, names: list[str]) -> Any:
    """The name of an id, or a label as it is, without white space around it."""
    if isinstance(label, str):
        return label.strip()
    return names[label] if type(label) is int and 0 <= label < len(names) else label


def _ids(
    present: set[Any], class_names: list[str] | None, known_names: list[str] | None, column: str
) -> tuple[list[str], dict[Any, int]]:
    """Names of labels, and the id of each label."""
    if class_names is not None:
        others = sorted(label for label in present.difference(class_names) if isinstance(label, str))
        names = class_names + others
        return names, {name: index for index, name in enumerate(names)}
    kinds = {type(label).__name__ for label in present}
    if len(kinds) > 1:
        raise DataError(
            f"The labels in '{column}' are not of one type.",
            f"They are of type {' and '.join(sorted(kinds))}.",
            "Give all splits the same names, or their ids.",
        )
    found = sorted(present)
    if known_names is not None and kinds <= {"int"}:
        return known_names, {index: index for index in range(len(known_names))}
    return known_names or list(map(str, found)), {label: index for index, label in enumerate(known_names or found)}


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
