"""What pydantic says of a recipe, told with the place, the near match and what to do."""

from __future__ import annotations

import re
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from distil_nlp.errors import RecipeError, near_match
from distil_nlp.recipe.yaml import KeyPath, Source, is_scalar


class FaultError(ValueError):
    """What a validator found, what to do about it, and the dotted key below the section at fault."""

    def __init__(self, found: str, fix: str, *, key: str = "") -> None:
        self.found, self.fix = found, fix
        self.path: KeyPath = tuple(key.split(".")) if key else ()
        super().__init__(f"{found} {fix}")


def explain(error: ValidationError, model: type[BaseModel], source: Source) -> RecipeError:
    """Returns one problem of ``error``, an unknown key if there is one, and how many more there are."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    asked, found, fix = _explain_one(problems[0], model, source)
    more = len({str(problem["loc"]) for problem in problems}) - 1
    if more:
        fix = f"{fix} ({more} more {'problem' if more == 1 else 'problems'} after this one.)".lstrip()
    return RecipeError(asked, found, fix)


def without_quotes(value: Any) -> str:
    """What to do about a number in quotes, or true or false; nothing about any other value."""
    return f"Write it without quotes: {value}" if isinstance(value, str) and is_scalar(value) else ""


def _explain_one(problem: Any, model: type[BaseModel], source: Source) -> tuple[str, str, str]:
    path = _without_kinds(model, tuple(str(key) for key in problem["loc"]))
    kind, value, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "union_tag_not_found":
        kind, path = "missing", (*path, _unquoted(context["discriminator"])[0])
    if kind == "union_tag_invalid":
        path = (*path, _unquoted(context["discriminator"])[0])
        asked = f"{source.where(path)}: '{_dotted(path, source)}' cannot be '{context['tag']}'."
        return asked, near_match(context["tag"], _unquoted(context["expected_tags"])), ""
    if kind == "missing":
        section = ".".join(path[:-1])
        needs = f"'{section}' needs" if section else "a recipe needs"
        return f"{source.where(path[:-1])}: {needs} the key '{path[-1]}'.", "It is missing.", "Add it."
    if kind == "extra_forbidden":
        inside = f" in '{'.'.join(path[:-1])}'" if path[1:] else ""
        return (
            f"{source.where(path)}: unknown key '{path[-1]}'{inside}.",
            near_match(path[-1], _keys(model, tuple(str(key) for key in problem["loc"]))),
            "",
        )
    fault = context.get("error")
    if isinstance(fault, FaultError):
        path += fault.path
        return f"{source.where(path)}: '{_dotted(path, source)}' cannot be used.", fault.found, fault.fix
    asked = f"{source.where(path)}: '{_dotted(path, source)}' cannot be {_shown(value)}."
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        fix = "Write one 'key: value' a line below it, indented; or {} for all of its defaults."
        return asked, "A section is needed here.", fix
    if kind == "tuple_type":
        return asked, "A list is needed here.", f"Write it as [{value}]." if isinstance(value, str) else "Write [a, b]."
    if kind == "literal_error":
        return asked, near_match(str(value), _unquoted(context["expected"])), ""
    if kind == "string_type" and isinstance(value, (int, float)):
        return asked, "A text is needed here.", f'Put it in quotes: "{value}"'
    return asked, f"{problem['msg']}.", without_quotes(value)


def _dotted(path: KeyPath, source: Source) -> str:
    """The key as the user would write it: pydantic's names of union members are left out."""
    return ".".join(source.known_part(path) or path)


def _unquoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def _walk(model: type[BaseModel], path: KeyPath) -> tuple[KeyPath, type[BaseModel]]:
    """The keys of a pydantic path, and the innermost section; names of kinds of sections and values are no keys."""
    keys: list[str] = []
    kinds: dict[str, type[BaseModel]] = {}
    for key in path:
        if key.startswith("("):  # a kind of value
            continue
        if key in kinds:
            model, kinds = kinds[key], {}
            continue
        keys.append(key)
        if key in model.model_fields:
            info = model.model_fields[key]
            sections = [part for part in (info.annotation, *get_args(info.annotation)) if _is_section(part)]
            if info.discriminator is not None:
                tag = str(info.discriminator)
                kinds = {get_args(section.model_fields[tag].annotation)[0]: section for section in sections}
            elif sections:
                model = sections[0]
    return tuple(keys), model


def _without_kinds(model: type[BaseModel], path: KeyPath) -> KeyPath:
    return _walk(model, path)[0]


def _keys(model: type[BaseModel], path: KeyPath) -> list[str]:
    """The known keys of the section that ``path`` ends in."""
    return list(_walk(model, path[:-1])[1].model_fields)


def _is_section(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, BaseModel)


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)
