"""YAML that remembers where each key was written, so that an error can say where to look.

Scalars follow YAML 1.2: ``5e-5`` is a number, ``no`` and ``on`` are words, ``true`` and ``false`` booleans.
Keys are whole numbers or words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from distil_nlp.errors import RecipeError

KeyPath = tuple[str, ...]

_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$")
_FLOAT = re.compile(
    r"^[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$"
    r"|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
)


class _Loader(yaml.SafeLoader):
    """SafeLoader with the rules below in the place of YAML 1.1's."""


class _Dumper(yaml.SafeDumper):
    """SafeDumper quotes what YAML 1.1 misreads; this one also what 1.2 reads as a number."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", _NULL, ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOL, list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


@dataclass(frozen=True)
class Source:
    """Where each key of a recipe was written, which makes no difference to whether two recipes are equal.

    Args:
        file: The file, as the user named it.
        places: From a path of keys to ``file:line:column`` (counted from 1), or to the override that set it.
        code_folder: Where modules lie that the recipe may name; None for one that must not run code.
    """

    file: str = field(compare=False, default="recipe")
    places: dict[KeyPath, str] = field(compare=False, default_factory=dict)
    code_folder: Path | None = field(compare=False, default=None)

    def known_part(self, path: KeyPath) -> KeyPath:
        """Returns the longest beginning of ``path`` that was written down."""
        while path and path not in self.places:
            path = path[:-1]
        return path

    def where(self, path: KeyPath) -> str:
        """Returns the place of ``path``, of the nearest section around it, or the file."""
        return self.places.get(self.known_part(path), self.file)


def read(path: Path) -> tuple[dict[str, Any], Source]:
    """Reads a YAML file that holds one mapping.

    Raises:
        RecipeError: The file cannot be read, is not UTF-8, is not YAML, is empty, or holds something else.
    """
    label = str(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{label}: cannot read this recipe.", f"{error.strerror}.", "Check the path.") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"{label}:{line}: this recipe is not UTF-8.",
            f"Byte 0x{raw[error.start]:02x} at offset {error.start} is not valid UTF-8.",
            "Save the file as UTF-8.",
        ) from error
    data, places = _Parser(text, label, numbered=True).parse()
    if data is None:
        raise RecipeError(
            f"{label}: this recipe is empty.", "", "It needs at least the sections task, teacher and student."
        )
    if not isinstance(data, dict):
        raise RecipeError(
            f"{label}: a recipe is a mapping of sections.",
            f"Found a {_kind(data)} at the top level.",
            "Start it with a section, such as 'task:'.",
        )
    return data, Source(label, places)


def override(data: dict[str, Any], source: Source, text: str) -> str:
    """Applies one ``section.key=value`` to ``data`` and ``source`` in place, and returns its key.

    Sections that are absent or null are made on the way.

    Raises:
        RecipeError: ``text`` is not of that form, or goes through something that is not a section.
    """
    key, equals, value_text = text.partition("=")
    path = tuple(key.strip().split("."))
    label = f"override '{text}'"
    if not equals or not all(path):
        raise RecipeError(
            f"{label} cannot be read.",
            "An override is section.key=value.",
            "For example: training.num_train_epochs=1",
        )
    value, places = _Parser(value_text, label, numbered=False).parse()
    section = data
    for depth, name in enumerate(path[:-1], start=1):
        if section.get(name) is None:
            section[name] = {}
        section = section[name]
        if not isinstance(section, dict):
            raise RecipeError(
                f"{label} cannot be applied.",
                f"'{'.'.join(path[:depth])}' is a {_kind(section)}, not a section.",
                f"Set it whole: {'.'.join(path[:depth])}=VALUE",
            )
    section[path[-1]] = value
    for old in [known for known in source.places if known[: len(path)] == path]:
        del source.places[old]
    for depth in range(1, len(path)):
        source.places.setdefault(path[:depth], label)
    source.places[path] = label
    source.places.update({(*path, *inner): place for inner, place in places.items()})
    return ".".join(path)


def is_scalar(text: str) -> bool:
    """Whether a text, written without quotes, is read as a number, or as true or false."""
    return any(pattern.match(text) for pattern in (_BOOL, _INT, _FLOAT))


def dump(data: dict[str, Any]) -> str:
    """Returns YAML that reads back as ``data`` here, and the same in YAML 1.1 readers."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Parser:
    """Builds plain values from YAML nodes and notes the place of every key and item."""

    def __init__(self, text: str, label: str, *, numbered: bool) -> None:
        self.text, self.label, self.numbered = text, label, numbered
        self.places: dict[KeyPath, str] = {}

    def parse(self) -> tuple[Any, dict[KeyPath, str]]:
        try:
            self.loader = _Loader(self.text)
            node = self.loader.get_single_node()
            value = None if node is None else self._value(node, (), ())
        except yaml.MarkedYAMLError as error:
            place = self._place(error.problem_mark) if error.problem_mark else self.label
            problem = error.problem or str(error)
            fix = (
                "Indent and separate with spaces, not tabs."
                if "'\\t'" in problem
                else "Check indentation, colons, quotes and brackets up to this place."
            )
            raise RecipeError(f"{place}: this is not valid YAML.", f"The parser {_said(problem)}.", fix) from error
        except yaml.reader.ReaderError as error:
            line = self.text.count("\n", 0, error.position) + 1
            place = f"{self.label}:{line}" if self.numbered else self.label
            found = f"It holds the control character U+{ord(str(error.character)):04X}."
            raise RecipeError(f"{place}: this is not valid YAML.", found, "Delete that character.") from error
        return value, self.places

    def _place(self, mark: yaml.Mark) -> str:
        return f"{self.label}:{mark.line + 1}:{mark.column + 1}" if self.numbered else self.label

    def _value(self, node: yaml.Node, path: KeyPath, parents: tuple[yaml.Node, ...]) -> Any:
        if node in parents:
            raise RecipeError(f"{self._place(node.start_mark)}: this alias holds itself.", "", "Write the value out.")
        parents = (*parents, node)
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, path, parents)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self._item(item, (*path, str(index)), parents) for index, item in enumerate(node.value)]
        try:
            return self.loader.construct_object(node)
        except ValueError as error:
            raise RecipeError(f"{self._place(node.start_mark)}: this value cannot be read.", f"{error}.") from error

    def _item(self, node: yaml.Node, path: KeyPath, parents: tuple[yaml.Node, ...]) -> Any:
        self.places[path] = self._place(node.start_mark)
        return self._value(node, path, parents)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, parents: tuple[yaml.Node, ...]) -> dict[str | int, Any]:
        values: dict[str | int, Any] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                raise RecipeError(f"{place}: a key is a plain word.", "", "Write it as 'key: value'.")
            number = key_node.tag == "tag:yaml.org,2002:int"
            key = int(key_node.value) if number else key_node.value
            here = (*path, str(key))
            if key in values:
                raise RecipeError(
                    f"{place}: the key '{'.'.join(here)}' is written twice.",
                    f"It was first written at {self.places[here]}.",
                    "Keep one of them.",
                )
            self.places[here] = place
            values[key] = self._value(value_node, here, parents)
        return values


def _said(problem: str) -> str:
    """PyYAML's problems read 'found ...', 'could not ...', 'expected ..., but found ...'."""
    return problem if problem.startswith(("found", "could not", "expected")) else f"says: {problem}"


def _kind(value: Any) -> str:
    return {dict: "mapping", list: "list", str: "text", bool: "true/false value"}.get(type(value), "single value")
