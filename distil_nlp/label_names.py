"""The names of a model's labels, and when they are the same."""

from __future__ import annotations

import re
from collections.abc import Sequence

from transformers import PretrainedConfig

_UNNAMED = re.compile(r"LABEL_\d+")


def names_by_id(config: PretrainedConfig) -> dict[int, str]:
    """The names of a model's labels by their ids, in the order of these."""
    return dict(sorted((int(index), str(name)) for index, name in (config.id2label or {}).items()))


def unnamed(names: Sequence[str]) -> bool:
    """Whether they are what transformers calls labels that nobody has named."""
    return all(_UNNAMED.fullmatch(name) for name in names)


def as_compared(*lists: Sequence[str]) -> list[tuple[str, ...]]:
    """Lists of names as they are compared: whatever their case, unless it is all that tells two of a list apart."""
    folded = [tuple(map(str.casefold, names)) for names in lists]
    told_apart = all(len(set(each)) == len(set(names)) for each, names in zip(folded, lists, strict=True))
    return folded if told_apart else [tuple(names) for names in lists]
