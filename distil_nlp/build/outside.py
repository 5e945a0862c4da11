"""Objectives of your own, named in a recipe as ``my_module:MyLoss``."""

from __future__ import annotations

import importlib
import importlib.machinery
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from distil_nlp.errors import RecipeError, near_match
from distil_nlp.objectives import OBJECTIVES, Objective


def objective_class(name: str, folder: Path | None) -> type[Objective]:
    """The class that a recipe names: a registered objective, or ``module:Class`` from outside.

    Naming a class runs its module, so this is for recipes that the user has put on the machine and named by path.

    Args:
        name: As in the recipe.
        folder: The recipe's folder, where modules are looked for first; None for a recipe that must not run code.

    Raises:
        RecipeError: for an unknown name; a module or class that is not there; a class that is no objective.
    """
    if ":" not in name:
        return OBJECTIVES[name]
    module_name, _, class_name = name.partition(":")
    asked = f"The recipe names the objective '{name}'."
    if folder is None:
        raise RecipeError(
            asked,
            "Its module would be run, which only recipes may ask for that are named by the path of their file.",
            "Copy the recipe into a file beside the module, and name that.",
        )
    if not all(part.isidentifier() for part in (*module_name.split("."), class_name)):
        raise RecipeError(asked, "That is not the name of a class in a module.", "Write it as my_module:MyLoss.")
    return _checked(asked, _import(asked, module_name, folder), class_name)


def _import(asked: str, name: str, folder: Path) -> ModuleType:
    top = name.partition(".")[0]
    beside = importlib.machinery.PathFinder.find_spec(top, [str(folder)])
    loaded = sys.modules.get(top)
    if beside is not None and beside.origin is not None and loaded is not None:
        origin = getattr(loaded, "__file__", None)
        if origin is None or Path(origin).resolve() != Path(beside.origin).resolve():
            raise RecipeError(
                asked,
                f"Another module '{top}' is loaded already, from {origin or 'Python itself'}.",
                f"Give {beside.origin} another name.",
            )
    try:
        with _first_on_path(folder):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise RecipeError(
                asked, f"Its module needs '{error.name}', which is not installed.", "Install it."
            ) from None
        raise RecipeError(
            asked,
            f"There is no module '{error.name}' in {folder}, nor where Python looks for modules.",
            "Put it beside the recipe, or install it.",
        ) from None
    except (ImportError, SyntaxError) as error:
        raise RecipeError(asked, f"Its module cannot be imported: {error}.", "Correct the module.") from error


def _checked(asked: str, module: ModuleType, class_name: str) -> type[Objective]:
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Objective)):
        own = [
            name for name, value in vars(module).items() if _is_objective(value) and value.__module__ == module.__name__
        ]
        problem = f"'{class_name}' is not an Objective" if found is not None else f"It has no '{class_name}'"
        fix = near_match(class_name, own) if own else "Derive it from distil_nlp.objectives.Objective."
        raise RecipeError(asked, f"{problem} ({module.__file__}).", fix)
    if not isinstance(getattr(found, "name", None), str) or not found.name:
        raise RecipeError(asked, f"{class_name} has no name to be logged under.", 'Give it one: name = "my_loss".')
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise RecipeError(asked, f"{class_name} lacks {missing}.", "docs/objectives.md says what they are for.")
    if found.name in OBJECTIVES and OBJECTIVES[found.name] is not found:
        raise RecipeError(asked, f"Its name, '{found.name}', is that of another objective.", "Give it another name.")
    return found


def _is_objective(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Objective)


@contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
