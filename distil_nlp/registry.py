"""Names to classes, with an error that knows the near match."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from distil_nlp.errors import RecipeError, near_match

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from a name, as users write it in a recipe, to what it stands for.

    Args:
        kind: What is registered, in the singular, for error messages (``"objective"``).
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that registers under ``name``; a name is taken once."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} '{name}' is already registered")
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise RecipeError(f"Unknown {self.kind} '{name}'.", near_match(name, self._entries))
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)
