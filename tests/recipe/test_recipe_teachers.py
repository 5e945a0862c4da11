"""The teachers of a recipe: one, or several, each with all that is said of it."""

from pathlib import Path

import pytest

from distil_nlp.errors import RecipeError
from distil_nlp.recipe import Recipe

TEXT = """\
task:
  name: text-classification
  dataset: rows.csv
teacher:
  model: org/first
  fine_tune: {learning_rate: 5e-5}
  dtype: bfloat16
  ensemble:
    members:
      - seed: 1
      - {model: org/second, revision: main, quantization: int8}
    weights: [1, 2.5, 1]
student: {num_layers: 2}
"""


@pytest.fixture
def write(tmp_path: Path):
    def written(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return written


def test_each_teacher_has_all_that_is_said_of_it(write, tmp_path):
    recipe = Recipe.load(write(TEXT))
    first, second, third = recipe.teachers.values()
    assert list(recipe.teachers) == ["teacher_1", "teacher_2", "teacher_3"]
    assert [member.model for member in (first, second, third)] == ["org/first", "org/first", "org/second"]
    assert [member.seed for member in (first, second, third)] == [42, 1, 42]
    assert [member.fine_tune for member in (first, second, third)] == [{"learning_rate": 5e-5}] * 2 + [None]
    assert [member.dtype for member in (first, second, third)] == ["bfloat16", "bfloat16", None]
    assert [member.quantization for member in (first, second, third)] == [None, None, "int8"]
    assert third.revision == "main"
    assert recipe.teacher.ensemble is not None
    assert recipe.teacher.ensemble.weights == (1, 2.5, 1)
    recipe.save(tmp_path / "saved.yaml")
    assert Recipe.load(tmp_path / "saved.yaml") == recipe


def test_one_teacher_is_a_list_of_one(write):
    recipe = Recipe.load(write(TEXT), ["teacher.ensemble=null", "seed=7"])
    [(name, member)] = recipe.teachers.items()
    assert (name, member.model, member.seed, member.dtype) == ("teacher", "org/first", 7, "bfloat16")


def test_members_without_a_model_follow_the_teacher(write):
    recipe = Recipe.load(write(TEXT), ["teacher.model=org/other", "teacher.quantization=int8"])
    assert [member.model for member in recipe.teachers.values()] == ["org/other", "org/other", "org/second"]
    assert [member.quantization for member in recipe.teachers.values()] == ["int8"] * 3


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("- seed: 1", "- sed: 1", "10:9", "Did you mean 'seed'?"),
        ("- seed: 1", "- seed: -1", "10:9", "greater than or equal to 0"),
        ("- seed: 1", "- seed: 42", "10:9", "also said of teacher_1"),
        ("- seed: 1", "- {}", "10:9", "also said of teacher_1"),
        ("- seed: 1", "- {seed: 1, dtype: float32}", "10:19", "Name the `model`"),
        ("dtype: bfloat16", "dtype: auto", "7:3", "Name one: bfloat16"),
        ("- seed: 1", "- {seed: 1, sha256: 00}", "10:19", "sha256"),
        ("- seed: 1", "- {fine_tune: {learning_rat: 1}}", "10:22", "Did you mean 'learning_rate'?"),
        ("- seed: 1", "- {fine_tune: {seed: 1}}", "10:22", "top level"),
        ("revision: main", "seed: 3", "11:29", "fine-tuned already"),
        ("  fine_tune: {learning_rate: 5e-5}\n", "", "9:9", "fine-tuned already"),
        ("int8", "int4", "11:45", "Known: int8"),
        ("[1, 2.5, 1]", "[1, 2.5]", "12:5", "It has 2 numbers, and the ensemble 3 members."),
        ("[1, 2.5, 1]", "[1, 2.5, 0]", "12:23", "greater than 0"),
        ("weights: [1, 2.5, 1]", "average: mean", "12:5", "Known: logits, probabilities"),
        ("weights: [1, 2.5, 1]", "by_confidence: sure", "12:5", "Known: entropy, max_prob"),
        ("name: text-classification", "name: text2text-generation", "8:3", "cannot be averaged"),
        ("name: text-classification", "name: feature-extraction", "6:3", "have no labels"),
    ],
)
def test_each_mistake_is_one_error_with_its_place(write, old, new, place, words):
    assert TEXT.count(old) == 1
    path = write(TEXT.replace(old, new))
    with pytest.raises(RecipeError) as caught:
        Recipe.load(path)
    assert str(caught.value).startswith(f"{path}:{place}: "), caught.value
    assert words in str(caught.value)


def test_embeddings_of_several_teachers_are_not_averaged(write):
    text = TEXT.replace("text-classification", "feature-extraction").replace("  fine_tune: {learning_rate: 5e-5}\n", "")
    path = write(text.replace("- seed: 1", "- model: org/other"))
    with pytest.raises(
        RecipeError, match=r":7:3: 'teacher.ensemble' cannot be used.\nThe predictions of several models"
    ):
        Recipe.load(path)
