"""Checks what a recipe hands to ``transformers.TrainingArguments``, before any training."""

from __future__ import annotations

import dataclasses
import difflib
from enum import Enum
from functools import cache
from typing import Any, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from distil_nlp.errors import RecipeError, near_match
from distil_nlp.recipe.errors import without_quotes
from distil_nlp.recipe.yaml import KeyPath, Source

_OWN = {
    "output_dir": "The run decides where its files go. Give --output-dir to the command.",
    "seed": "One seed is used for the whole run. Give 'seed' at the top level of the recipe.",
    "save_only_model": "A run that was interrupted could not go on from such a checkpoint as if nothing had happened.",
    "resume_from_checkpoint": "The run finds its own last checkpoint. Give --resume to the command.",
}


def check_training_arguments(arguments: dict[str, Any], source: Source, section: KeyPath) -> None:
    """Checks names, types and named choices of training arguments.

    Args:
        arguments: What stands in the section.
        source: Where it stands.
        section: The keys that lead to it, as ``("teacher", "fine_tune")``.

    Raises:
        RecipeError: A name ``TrainingArguments`` lacks or the run decides, or a value of another type.
    """
    for name, value in arguments.items():
        asked = f"{source.where((*section, name))}: '{'.'.join((*section, name))}'"
        if name in _OWN:
            raise RecipeError(f"{asked} cannot be set here.", _OWN[name])
        types = _argument_types()
        if name not in types:
            close = difflib.get_close_matches(name, types, n=1)
            found = f"Did you mean '{close[0]}'?" if close else ""
            raise RecipeError(
                f"{asked} is not a training argument.",
                found,
                "Every field of transformers.TrainingArguments can stand here.",
            )
        choices = _choices(types[name])
        if choices and isinstance(value, str) and value not in choices:
            raise RecipeError(f"{asked} cannot be {value!r}.", near_match(value, choices))
        try:
            read = _adapter(name).validate_python(value)
        except ValidationError as error:
            raise RecipeError(f"{asked} cannot be {value!r}.", f"{error.errors()[0]['msg']}.") from None
        if isinstance(value, str) and isinstance(read, bool):  # transformers would take the word no for yes
            raise RecipeError(f"{asked} cannot be {value!r}.", "It is true or false.", f"Write {str(read).lower()}.")
        if isinstance(value, str) and isinstance(read, int | float):
            raise RecipeError(f"{asked} cannot be {value!r}.", "A number is needed here.", without_quotes(value))


@cache
def _argument_types() -> dict[str, Any]:
    from transformers import TrainingArguments  # imports torch: only when there is something to check

    hints = get_type_hints(TrainingArguments)
    return {field.name: hints[field.name] for field in dataclasses.fields(TrainingArguments) if field.init}


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(_argument_types()[name], config=ConfigDict(arbitrary_types_allowed=True))


def _choices(annotation: Any) -> list[str]:
    """The values of an argument that is typed as ``SomeEnum | str``."""
    enums = (part for part in get_args(annotation) if isinstance(part, type) and issubclass(part, Enum))
    return [str(member.value) for enum in enums for member in enum]
