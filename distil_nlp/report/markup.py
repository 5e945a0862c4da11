"""HTML and SVG as values: whatever is not already markup is escaped."""

from __future__ import annotations

from html import escape
from typing import Any

VOID = {"br", "meta", "line", "rect", "circle", "path", "polygon"}


class Markup(str):
    """Text that is markup already, made by :func:`tag` or :func:`join`."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: Any) -> Markup:
    """An element: children that are not :class:`Markup` are escaped, attributes always are.

    Underscores in attribute names stand for hyphens, a trailing one is dropped (``class_``), and an attribute
    that is None is left out.

    >>> tag("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID and not children:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: object) -> Markup:
    """Children one after the other, as :func:`tag` takes them; None is nothing."""
    return Markup(
        "".join(child if isinstance(child, Markup) else escape(str(child)) for child in children if child is not None)
    )


def _short(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
