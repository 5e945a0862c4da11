"""The wheel holds one package, with recipes and programs in it as data, and needs no source tree."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    (file,) = folder.glob("*.whl")
    return zipfile.ZipFile(file)


def names(wheel: zipfile.ZipFile, folder: str) -> set[str]:
    return {name.removeprefix(folder) for name in wheel.namelist() if name.startswith(folder)}


def test_the_only_top_level_name_is_the_package(wheel):
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"distil_nlp"}


def test_every_file_of_the_package_is_in_it_and_nothing_made_by_python(wheel):
    source = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "distil_nlp").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert source <= set(wheel.namelist())
    assert not [name for name in wheel.namelist() if "__pycache__" in name or name.endswith(".pyc")]


def test_recipes_and_programs_travel_as_data(wheel):
    assert names(wheel, "distil_nlp/_tasks/") == {path.name for path in (ROOT / "tasks").glob("*.yaml")}
    assert names(wheel, "distil_nlp/_trainers/") == {path.name for path in (ROOT / "trainers").glob("*.py")}
    assert "movie_sentiment.yaml" in names(wheel, "distil_nlp/_tasks/")


def test_metadata(wheel):
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "License-Expression: Apache-2.0\n" in metadata
    assert "Requires-Python: >=3.10\n" in metadata
    assert "distil-nlp = distil_nlp.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert "Apache License" in wheel.read(f"{info}/licenses/LICENSE").decode()


def test_shipped_recipes_load_from_the_unpacked_wheel(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    code = """
import distil_nlp.recipe as recipe
files = recipe.shipped_recipes()
assert all(file.parent.name == "_tasks" for file in files.values()), files
print(recipe.Recipe.load("movie_sentiment").name)
"""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert ran.stdout.strip() == "movie_sentiment", ran.stderr
