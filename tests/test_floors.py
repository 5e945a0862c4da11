"""Imports only go down the floors (docs/design.md), wherever in a file they stand."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import distil_nlp

PACKAGE = Path(distil_nlp.__path__[0])

FLOORS = {
    0: ["errors", "registry", "signals", "cache", "files", "wheels", "references", "weights", "label_names"],
    1: ["functional", "mapping", "layer_weights", "projection", "blocks"],
    2: ["capture", "objectives", "teachers", "students", "data"],
    3: ["training", "evaluation", "export", "hub", "report"],
    4: ["recipe", "build", "run"],
    5: ["cli"],
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names}
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if "_trainers" not in path.parts)

# Floor 2 is made of independent parts; only these two look at what capture returns.
NEIGHBOURS = {("teachers", "capture"), ("objectives", "capture")}


def part(module: Path) -> str:
    """The module or folder of ``distil_nlp`` that a file belongs to."""
    return module.parts[0].removesuffix(".py")


def imported(source: str, module: Path) -> set[str]:
    """The parts of ``distil_nlp`` that a source text imports, in functions and relatively too."""
    package = ("distil_nlp", *module.parent.parts)
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            names |= {".".join([*base, alias.name]) for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("distil_nlp.")}


def wrong_imports(module: Path, source: str) -> list[str]:
    here = part(module)
    wrong = []
    for other in imported(source, module) - {here}:
        if other not in FLOOR:  # a name that distil_nlp/__init__.py exports, from wherever
            wrong.append(f"imports '{other}' from the top of the package: import it from its own module")
        elif FLOOR[other] > FLOOR[here]:
            wrong.append(f"floor {FLOOR[here]} imports {other} of floor {FLOOR[other]}")
        elif FLOOR[here] == FLOOR[other] == 2 and (here, other) not in NEIGHBOURS:
            wrong.append(f"{here} imports its neighbour {other} on floor 2")
        elif here == "recipe" and other not in ("errors", "files", "wheels"):
            wrong.append(f"{here} imports {other}: a recipe is plain values")
    return sorted(wrong)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_only_go_down(module):
    if module == Path("__init__.py"):
        return
    assert part(module) in FLOOR, "a new part of the package needs a floor"
    assert wrong_imports(module, (PACKAGE / module).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source", "allowed"),
    [
        ("data/task.py", "from distil_nlp.errors import DataError", True),
        ("data/task.py", "from distil_nlp.data.load import read", True),
        ("objectives/attentions.py", "from distil_nlp.capture import capture", True),
        ("training/trainer.py", "from distil_nlp import capture", True),
        ("capture.py", "from distil_nlp.objectives import base", False),
        ("data/task.py", "from distil_nlp.students.build import build_student", False),
        ("errors.py", "def f():\n    import distil_nlp.cli", False),
        ("mapping.py", "from .training import trainer", False),
        ("functional/reduce.py", "from ..data import load", False),
        ("objectives/base.py", "from distil_nlp import DistillationTrainer", False),
        ("recipe.py", "from distil_nlp.training import trainer", False),
    ],
)
def test_the_rule_itself(module, source, allowed):
    assert (wrong_imports(Path(module), source) == []) is allowed
