"""What a recipe may say of rows that the teacher labels; each mistake is an error that names the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from distil_nlp.errors import RecipeError
from distil_nlp.recipe import Recipe
from distil_nlp.wheels import SCHEME

SMALL = """\
task: {{name: {task}, dataset: rows.csv{more}}}
teacher: {{model: org/teacher, fine_tune: {{}}}}
student: {{num_layers: 3}}
"""


def load(folder: Path, more: str = "", task: str = "text-classification") -> Recipe:
    path = folder / "small.yaml"
    path.write_text(SMALL.format(task=task, more=more and f", {more}"), encoding="utf-8")
    return Recipe.load(path)


def test_a_reference_is_short_for_a_section(tmp_path: Path) -> None:
    short = load(tmp_path, "unlabelled: more.txt")
    assert short.task.unlabelled.dataset == "more.txt"
    assert short.task.unlabelled.encoding == "utf-8"
    assert short == load(tmp_path, "unlabelled: {dataset: more.txt}")
    short.save(tmp_path / "saved.yaml")
    assert Recipe.load(tmp_path / "saved.yaml").task == short.task


def test_the_defaults_are_those_of_the_papers(tmp_path: Path) -> None:
    recipe = load(tmp_path, "augment: {copies: 20, methods: [mask, ngram, masked_lm], model: org/bert}")
    found = recipe.task.augment
    assert (found.mask_probability, found.ngram_probability, found.replace_probability) == (0.1, 0.25, 0.4)
    assert found.candidates == 15
    recipe.save(tmp_path / "saved.yaml")
    assert Recipe.load(tmp_path / "saved.yaml").task == recipe.task
    assert load(tmp_path).task.augment is load(tmp_path).task.unlabelled is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("augment: {methods: [mask]}", "'task.augment' needs the key 'copies'"),
        ("augment: {copies: 1}", "'task.augment' needs the key 'methods'"),
        ("augment: {copies: 0, methods: [mask]}", "'task.augment.copies' cannot be 0"),
        ("augment: {copies: 1, methods: []}", r"'task.augment.methods' cannot be \[\]"),
        ("augment: {copies: 1, methods: [mask, mask]}", "repeats a value"),
        ("augment: {copies: 1, methods: [masks]}", "Did you mean 'mask'"),
        ("augment: {copies: 1, methods: [mask], mask_probability: 0}", "'task.augment.mask_probability' cannot be 0"),
        ("augment: {copies: 1, methods: [mask], p: 0.2}", "unknown key 'p' in 'task.augment'"),
        ("augment: {copies: 1, methods: [masked_lm]}", "'task.augment.methods' cannot be used.*no model to ask"),
        ("augment: {copies: 1, methods: [mask], model: org/bert}", "'task.augment.model' cannot be used.*not listed"),
        (
            "augment: {copies: 1, methods: [mask, neighbours], mask_probability: 0.7}",
            "'task.augment' cannot be used.*sum to 1.1",
        ),
        (
            f"augment: {{copies: 1, methods: [masked_lm], model: '{SCHEME}a==1/model'}}",
            "'task.augment.model' cannot be used.*sha256",
        ),
        (f"unlabelled: '{SCHEME}a==1/more.csv'", "'task.unlabelled' cannot be used.*sha256"),
        ("unlabelled: {dataset: more.txt, encoding: utf-88}", "'task.unlabelled.encoding' cannot be used"),
        ("unlabelled: {dataset: more.txt, columns: {txt: question}}", "'task.unlabelled.columns' cannot.*'text'"),
        ("unlabelled: {split: train}", "'task.unlabelled' needs the key 'dataset'"),
    ],
)
def test_each_mistake_names_the_key(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(RecipeError, match=f"(?s){message}"):
        load(tmp_path, more)


@pytest.mark.parametrize("task", ["question-answering", "text-generation", "fill-mask"])
def test_tasks_without_such_rows_refuse_them(tmp_path: Path, task: str) -> None:
    with pytest.raises(RecipeError, match=f"(?s)task.unlabelled' cannot be used.*{task}"):
        load(tmp_path, "unlabelled: more.txt", task)
    with pytest.raises(RecipeError, match=f"(?s)task.augment' cannot be used.*no methods for texts of {task}"):
        load(tmp_path, "augment: {copies: 1, methods: [mask]}", task)


def test_words_with_tags_are_not_cut_out_of_their_text(tmp_path: Path) -> None:
    task = "token-classification"
    with pytest.raises(RecipeError, match=r"(?s)task.augment.methods.*ngram.*Use some of mask, neighbours, masked_lm"):
        load(tmp_path, "augment: {copies: 1, methods: [mask, ngram]}", task)
    found = load(tmp_path, "augment: {copies: 1, methods: [mask, neighbours]}, unlabelled: more.conll", task).task
    assert found.augment.methods == ("mask", "neighbours")
