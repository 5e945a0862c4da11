"""What every test may rely on: no Hub, the same random numbers, a Hub cache of its own."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile

import numpy as np
import pytest

# Read when transformers and datasets are imported, so set before any test module is.
_HUB_CACHE = tempfile.mkdtemp(prefix="distil_nlp-tests-")
os.environ.pop("HF_ENDPOINT", None)
os.environ |= {
    "HF_HOME": _HUB_CACHE,
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


def pytest_unconfigure() -> None:
    shutil.rmtree(_HUB_CACHE, ignore_errors=True)
