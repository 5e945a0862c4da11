"""The student's section: rules for layers, two stacks, a vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from distil_nlp.errors import RecipeError
from distil_nlp.recipe import Recipe
from distil_nlp.recipe.sections import Rule
from distil_nlp.students.choice import STRATEGIES


def load(folder: Path, student: Any, *overrides: str, task: str = "text-classification") -> Recipe:
    recipe = {
        "task": {"name": task, "dataset": "rows.csv"},
        "teacher": {"model": "org/teacher", "fine_tune": {}},
        "student": student,
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return Recipe.load(path, overrides)


def fails(folder: Path, student: Any, *overrides: str, **task: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(folder, student, *overrides, **task)
    return str(caught.value)


def test_the_rules_are_those_of_the_students() -> None:
    assert get_args(Rule) == STRATEGIES


@pytest.mark.parametrize("rule", STRATEGIES)
def test_a_rule_goes_with_a_number(tmp_path: Path, rule: str) -> None:
    recipe = load(tmp_path, {"num_layers": 3, "layers": rule})
    assert (recipe.student.num_layers, recipe.student.layers) == (3, rule)
    recipe.save(tmp_path / "saved.yaml")
    assert Recipe.load(tmp_path / "saved.yaml") == recipe


@pytest.mark.parametrize(
    ("student", "override", "found"),
    [
        ({"num_layers": 3, "layers": "cka"}, "student.num_layers=2", (2, "cka")),
        ({"num_layers": 3}, "student.layers=cka", (3, "cka")),
        ({"num_layers": 3, "layers": "cka"}, "student.layers=[1,2]", (None, (1, 2))),
        ({"layers": [1, 2]}, "student.num_layers=2", (2, None)),
        ({"num_layers": 3, "layers": "cka"}, "student.model=a/b", (None, None)),
        ({"model": "a/b"}, "student.num_layers=2", (2, None)),
    ],
)
def test_overrides_replace_what_does_not_go_with_them(tmp_path: Path, student: Any, override: str, found: Any) -> None:
    read = load(tmp_path, student, override).student
    assert (read.num_layers, read.layers) == found
    assert read.model == ("a/b" if "model" in override else None)


def test_the_decoder_of_an_encoder_decoder(tmp_path: Path) -> None:
    for given, found in ((2, 2), ([1, 6], (1, 6))):
        student = {"num_layers": 3, "decoder_layers": given}
        recipe = load(tmp_path, student, task="text2text-generation")
        assert recipe.student.decoder_layers == found
        recipe.save(tmp_path / "saved.yaml")
        assert Recipe.load(tmp_path / "saved.yaml") == recipe
    alone = load(tmp_path, {"decoder_layers": 2}, task="text2text-generation").student
    assert (alone.num_layers, alone.layers) == (None, None)
    own = load(tmp_path, {"decoder_layers": 2}, "student.model=a/b", task="text2text-generation").student
    assert (own.model, own.decoder_layers) == ("a/b", None)


def test_a_vocabulary(tmp_path: Path) -> None:
    assert load(tmp_path, {"num_layers": 3}).student.vocabulary is None
    recipe = load(tmp_path, {"num_layers": 3, "vocabulary": "task"})
    assert recipe.student.vocabulary.model_dump() == {"min_count": 1, "max_size": None, "keep": ()}
    recipe.save(tmp_path / "saved.yaml")
    assert Recipe.load(tmp_path / "saved.yaml") == recipe
    given = {"min_count": 2, "max_size": 8000, "keep": ["film"]}
    found = load(tmp_path, {"model": "a/b", "vocabulary": given}).student.vocabulary
    assert found.model_dump() == {**given, "keep": ("film",)}
    assert load(tmp_path, {"num_layers": 3}, "student.vocabulary=task").student.vocabulary.min_count == 1
    assert load(tmp_path, {"num_layers": 3}, "student.vocabulary.min_count=3").student.vocabulary.min_count == 3
    assert load(tmp_path, {"num_layers": 3, "vocabulary": given}, "student.vocabulary=null").student.vocabulary is None


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ({"layers": "cka"}, ["'student.layers'", "not how many", "num_layers"]),
        ({"model": "a/b", "start": "pretrained"}, ["'student.start'", "weights of its own"]),
        ({"num_layers": 2, "layers": "lst"}, ["'student.layers'", "Did you mean 'last'"]),
        ({"num_layers": 2, "layers": [1, 2]}, ["exactly one of"]),
        ({"num_layers": 2, "layers": 3}, ["'student.layers'", "A list is needed"]),
        ({"layers": [0, 1]}, ["'student.layers.0'", "small.yaml:9:5:", "greater than or equal to 1"]),
        ({"layers": [1, 1]}, ["repeats a value"]),
        ({"model": "a/b", "layers": "cka"}, ["exactly one of"]),
        ({"vocabulary": "task"}, ["none of them"]),
        ({"num_layers": 2, "vocabulary": "all"}, ["'student.vocabulary'", "Write task"]),
        ({"num_layers": 2, "vocabulary": {"min_cuont": 2}}, ["Did you mean 'min_count'"]),
        ({"num_layers": 2, "vocabulary": {"max_size": 0}}, ["'student.vocabulary.max_size'"]),
        ({"num_layers": 2, "vocabulary": {"keep": ["a", "a"]}}, ["repeats a value"]),
        ({"num_layers": 2, "decoder_layers": 1}, ["'student.decoder_layers'", "one stack of layers"]),
    ],
)
def test_what_cannot_be_is_said_with_its_place(tmp_path: Path, student: Any, words: list[str]) -> None:
    said = fails(tmp_path, student)
    assert all(word in said for word in words), said
    assert "small.yaml:" in said
    assert "more problem" not in said


def test_of_decoder_layers_too(tmp_path: Path) -> None:
    for given, word in (("two", "A list is needed"), ([], "at least 1"), (0, "greater than or equal to 1")):
        said = fails(tmp_path, {"num_layers": 2, "decoder_layers": given}, task="text2text-generation")
        assert "'student.decoder_layers'" in said
        assert word in said
    said = fails(tmp_path, {"model": "a/b", "decoder_layers": 2}, task="text2text-generation")
    assert "exactly one of" in said
