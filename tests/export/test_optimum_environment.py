"""The Optimum environment is made whole or not at all."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from distil_nlp.errors import ExportError
from distil_nlp.export import ensure_environment, environment


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DISTIL_NLP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "optimum"


@pytest.fixture
def no_index(monkeypatch) -> None:
    """An index that nobody serves, and no other place to find packages."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def quick_install(monkeypatch) -> list[Path]:
    """Stands in for pip and the trial import: an Optimum of two empty modules."""
    installs = []

    def install(python: Path, packages: Path) -> None:
        installs.append(packages)
        for name in ("optimum", "optimum/exporters", "optimum/exporters/onnx", "optimum/onnxruntime"):
            (packages / name).mkdir(parents=True)
            (packages / name / "__init__.py").touch()

    monkeypatch.setattr(environment, "_install", install)
    return installs


def test_failing_pip_is_one_clear_error_and_leaves_nothing(cache, no_index):
    lines = []
    with pytest.raises(ExportError, match=r"pip failed:\nERROR") as caught:
        ensure_environment(lines.append)
    assert "backend: native" in str(caught.value)
    assert len(lines) == 1
    assert list(cache.iterdir()) == []


def test_full_disk_is_said_before_anything_is_downloaded(cache, quick_install, monkeypatch):
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000_000))
    with pytest.raises(ExportError, match=r"(?s)No space left.*DISTIL_NLP_CACHE"):
        ensure_environment(lambda line: None)
    assert quick_install == []


def test_environment_is_made_once(cache, quick_install):
    lines = []
    first = ensure_environment(lines.append)
    assert ensure_environment(lines.append) == first
    assert len(lines) == len(quick_install) == 1
    assert list(cache.iterdir()) == [first]


def test_environment_sees_the_running_packages_after_its_own(cache, quick_install):
    python = environment.python_of(ensure_environment(lambda line: None))
    code = "import sys, numpy, optimum; print(numpy.__file__); print(optimum.__file__)"
    run = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    numpy_file, optimum_file = run.stdout.splitlines()
    assert any(numpy_file.startswith(folder) for folder in environment.shared_paths())
    assert optimum_file.startswith(str(cache))


def test_environment_that_does_not_work_is_not_kept(cache, monkeypatch):
    monkeypatch.setattr(environment, "_install", lambda python, packages: None)
    monkeypatch.setattr(environment, "shared_paths", list)
    with pytest.raises(ExportError, match="No module named 'optimum'"):
        ensure_environment(lambda line: None)
    assert list(cache.iterdir()) == []


def test_process_that_comes_second_uses_the_first_ones(cache, quick_install, monkeypatch):
    """While this process installs, another one finishes."""
    install = environment._install

    def overtaken(python: Path, packages: Path) -> None:
        install(python, packages)
        theirs = environment.python_of(cache / environment._key())
        theirs.parent.mkdir(parents=True)
        theirs.write_text("theirs")

    monkeypatch.setattr(environment, "_install", overtaken)
    made = ensure_environment(lambda line: None)
    assert environment.python_of(made).read_text() == "theirs"
    assert list(cache.iterdir()) == [made]


def test_remains_of_an_environment_are_made_anew(cache, quick_install):
    (cache / environment._key() / "lib").mkdir(parents=True)
    assert environment.python_of(ensure_environment(lambda line: None)).exists()


def test_other_pins_or_packages_make_another_environment(cache, monkeypatch):
    before = environment._key()
    monkeypatch.setattr(environment, "shared_paths", lambda: ["/elsewhere/site-packages"])
    assert environment._key() != before


def test_every_pin_has_its_hashes():
    text = environment._REQUIREMENTS.read_text()
    pins = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    assert len(pins) == 5
    for pin in pins:
        hashes = [word.removeprefix("--hash=sha256:") for word in pin.split()[1:]]
        assert "==" in pin
        assert {len(digest) for digest in hashes} == {hashlib.sha256().digest_size * 2}


def test_last_lines_of_a_traceback_are_its_message():
    run = subprocess.run(
        [sys.executable, "-c", "import warnings; warnings.warn('noise'); raise ValueError('no such\\nlayer')"],
        capture_output=True,
        text=True,
    )
    assert environment.last_lines(run.stderr) == "ValueError: no such\nlayer"
    assert environment.last_lines("one\n\ntwo\n", count=1) == "two"


@pytest.mark.slow
def test_real_environment_has_the_pinned_packages():
    python = environment.python_of(ensure_environment(lambda line: None))
    code = "import optimum.exporters.onnx, transformers as m, tokenizers as t; print(m.__version__, t.__version__)"
    run = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["4.55.4", "0.21.4"]
