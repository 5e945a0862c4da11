"""The small second environment in which Optimum runs.

optimum-onnx needs transformers 4, and this library runs on transformers 5. So a virtual environment in the
cache holds the few pinned packages of ``optimum_requirements.txt``, and finds everything else (torch, onnx,
onnxruntime, ...) in the running interpreter's site-packages.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path

from distil_nlp.cache import cache_dir
from distil_nlp.errors import ExportError

_REQUIREMENTS = Path(__file__).with_name("optimum_requirements.txt")
_BYTES_NEEDED = 200_000_000  # pip says pages when it runs out
_PIP_INSTALL = "install --require-hashes --no-deps --only-binary :all: --no-input --disable-pip-version-check"
_ASKED = "Make the Optimum environment (needed once by export.backend: optimum)."
_FIX = (
    "Check the network and pip's index settings (pip config list) and try again, or export with "
    "backend: native, which needs no second environment."
)


def ensure_environment(progress: Callable[[str], None] = print) -> Path:
    """Returns the Optimum environment's folder; makes it first if there is none.

    It is made in a temporary folder and moved into place whole, so that a half-made one is never used and
    processes that start together do not disturb each other. Its name is a hash of the pinned packages, the
    running interpreter and its site-packages: a change in any of them makes a new one.

    Raises:
        ExportError: The packages cannot be installed (no network, no pip), or the environment does not work.
    """
    root = cache_dir() / "optimum"
    environment = root / _key()
    if python_of(environment).exists():
        return environment
    progress("Making the Optimum environment (once: about 17 MB to download, 130 MB on disk) ...")
    try:
        root.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(root).free < _BYTES_NEEDED:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(root))
        with tempfile.TemporaryDirectory(dir=root, prefix=".new-") as scratch:
            made = Path(scratch, "environment")
            _make(made)
            _move_into_place(made, environment)
    except OSError as error:
        fix = "Free some space, or set DISTIL_NLP_CACHE to another folder."
        raise ExportError(_ASKED, str(error), fix) from error
    return environment


def python_of(environment: Path) -> Path:
    """Returns the interpreter of a virtual environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def shared_paths() -> list[str]:
    """Returns the running interpreter's package folders, in the order in which it searches them."""
    folders = (Path(entry).absolute() for entry in sys.path if entry)
    return [str(folder) for folder in folders if folder.name in ("site-packages", "dist-packages")]


def _key() -> str:
    parts = [_REQUIREMENTS.read_text(encoding="utf-8"), sys.version, sys.base_prefix, *shared_paths()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _make(environment: Path) -> None:
    """Makes the virtual environment: pip first, then the way to the shared packages, then a trial import."""
    own_pip = importlib.util.find_spec("pip") is None  # as in environments made by uv
    try:
        venv.create(environment, with_pip=own_pip, symlinks=os.name != "nt")
    except subprocess.CalledProcessError as error:
        raise ExportError(
            _ASKED,
            f"{sys.executable} has neither pip nor ensurepip.",
            "Install pip into this environment (python -m ensurepip, or uv pip install pip), or export with "
            "backend: native.",
        ) from error
    packages = _site_packages(environment)
    _install(python_of(environment) if own_pip else Path(sys.executable), packages)
    shared = "".join(f"{folder}\n" for folder in shared_paths())
    (packages / "shared.pth").write_text(shared, encoding=sys.getfilesystemencoding())
    trial = [str(python_of(environment)), "-I", "-c", "import optimum.exporters.onnx, optimum.onnxruntime"]
    run = subprocess.run(trial, env=offline_variables(), capture_output=True, text=True, errors="replace")
    if run.returncode:
        raise ExportError(_ASKED, f"Optimum cannot be imported in it:\n{last_lines(run.stderr)}", _FIX)


def _install(python: Path, packages: Path) -> None:
    command = [str(python), "-m", "pip", *_PIP_INSTALL.split()]
    command += ["--target", str(packages), "--requirement", str(_REQUIREMENTS)]
    # A user's pip settings name the index, and are kept; these would forbid --target or the older transformers.
    variables = os.environ | {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0", "PIP_CONSTRAINT": ""}
    run = subprocess.run(command, env=variables, capture_output=True, text=True, errors="replace")
    if run.returncode:
        errors = [line for line in run.stderr.splitlines() if line.startswith("ERROR: ")]
        crashed = not errors or "ERROR: Exception:" in errors
        raise ExportError(_ASKED, "pip failed:\n" + (last_lines(run.stderr) if crashed else "\n".join(errors)), _FIX)


def _move_into_place(made: Path, environment: Path) -> None:
    if environment.exists() and not python_of(environment).exists():
        shutil.rmtree(environment)  # what a cleaner of caches left of an older one
    try:
        made.rename(environment)
    except OSError:
        if not python_of(environment).exists():  # otherwise another process was first, and theirs is as good
            raise


def _site_packages(environment: Path) -> Path:
    if os.name == "nt":
        return environment / "Lib" / "site-packages"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return environment / "lib" / version / "site-packages"


def offline_variables() -> dict[str, str]:
    """Returns this process's environment variables, with the way to the Hub closed."""
    return os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def last_lines(text: str, count: int = 8) -> str:
    """Returns what a failed program said last: the message of its traceback, else its last lines."""
    lines = [line for line in text.splitlines() if line.strip()]
    frames = [index for index, line in enumerate(lines) if line.startswith("  File ")]
    if frames:
        message = [line for line in lines[frames[-1] + 1 :] if not line.startswith("  ")]
        lines = message or lines
    return "\n".join(line[:400] for line in lines[-count:])
