"""Where a run took place."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
from typing import Any

import torch

from distil_nlp.evaluation.efficiency import available_threads

PACKAGES = ("torch", "transformers", "datasets", "accelerate", "evaluate", "onnx", "onnxruntime", "numpy")


def environment(seed: int) -> dict[str, Any]:
    """Versions, hardware, seed, and the commit of the working directory if it is a git checkout."""
    git = shutil.which("git")
    commit = ""
    if git:
        commit = subprocess.run([git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_threads": available_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "seed": seed,
        "git_commit": commit or None,
        "distil_nlp": importlib.metadata.version("distil_nlp"),
        **{package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
