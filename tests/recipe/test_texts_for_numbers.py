"""Numbers in quotes, and words for true and false."""

import pytest

from distil_nlp.errors import RecipeError
from distil_nlp.recipe import Recipe

RECIPE = """
task: {name: text-classification, dataset: rows.csv}
teacher: {model: org/model}
student: {num_layers: 2}
training: {eval_strategy: no, learning_rate: 5e-5}
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.bf16=no", "'training.bf16' cannot be 'no'.*true or false.*Write false"),  # it would be switched on
        ("training.bf16=on", "Write true"),
        ("training.gradient_checkpointing='false'", "Write false"),
        ("training.weight_decay='0.01'", "cannot be '0.01'.*A number.*without quotes: 0.01"),
        ("training.max_steps='5'", "without quotes: 5"),
        ("teacher.fine_tune={max_steps: '5'}", "'teacher.fine_tune.max_steps'.*without quotes: 5"),
        ("student.num_layers='3'", "without quotes: 3"),
        ("task.metrics=accuracy", r"A list.*\[accuracy\]"),
        ("export=true", "A section.*{} for all of its defaults"),
    ],
)
def test_they_are_refused(file, override, words):
    with pytest.raises(RecipeError, match=f"(?s){words}"):
        Recipe.load(file, [override])


def test_what_is_a_text_stays_one(file):
    recipe = Recipe.load(file, ["training.report_to=none", "training.run_name='5'", "training.bf16=false"])
    assert recipe.training == {
        "eval_strategy": "no",
        "learning_rate": 5e-5,
        "report_to": "none",
        "run_name": "5",
        "bf16": False,
    }
