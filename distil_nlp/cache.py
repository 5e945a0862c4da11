"""Where downloaded and derived files are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Returns ``$DISTIL_NLP_CACHE``, else ``$XDG_CACHE_HOME/distil_nlp``, else ``~/.cache/distil_nlp``."""
    if own := os.environ.get("DISTIL_NLP_CACHE"):
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache").absolute() / "distil_nlp"
