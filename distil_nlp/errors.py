"""The one error hierarchy: what was asked, what was found, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class DistilError(Exception):
    """Something the user can mend.

    Args:
        asked: What was asked for, in the user's own words.
        found: What was found instead.
        fix: What to do about it.
    """

    def __init__(self, asked: str, found: str = "", fix: str = "") -> None:
        self.asked, self.found, self.fix = asked, found, fix
        super().__init__("\n".join(part for part in (asked, found, fix) if part))


class RecipeError(DistilError):
    """A recipe that cannot be run as written."""


class DataError(DistilError):
    """Data that is missing, malformed or does not fit the task."""


class UnresolvedReferenceError(DistilError):
    """A model or data reference that cannot be resolved."""


class ModelError(DistilError):
    """A teacher or student that does not fit what is asked of it."""


class TrainingError(DistilError):
    """Training that cannot go on: a loss that is not finite, a damaged checkpoint, a full disk."""


class ExportError(DistilError):
    """An export that failed, or is not the model it was made from."""


class MissingExtraError(DistilError):
    """An optional dependency that is not installed."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(
            f"This needs the package '{module}'.",
            "It is not installed.",
            f"Install it with: pip install 'distil_nlp[{extra}]'",
        )


def near_match(name: str, known: Iterable[str]) -> str:
    """Returns ``Did you mean 'x'?`` for the closest known name, and the list of known names.

    >>> near_match("logit_kl", ["logits_kl", "attentions"])
    "Did you mean 'logits_kl'? Known: attentions, logits_kl."
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}Known: {', '.join(names)}."


def listed(names: Sequence[str], most: int) -> str:
    """Returns the first names, and how many others there are; of none ``nothing``.

    >>> listed(["a", "b", "c", "d"], 2)
    'a, b and 2 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more


def first_line(error: BaseException) -> str:
    """Returns the first line of what an error says."""
    return str(error).strip().partition("\n")[0]
