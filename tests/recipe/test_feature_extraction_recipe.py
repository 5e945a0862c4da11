"""What a recipe of feature-extraction may say, and what the task says for it."""

import json

import pytest
from tiny_run import save_checkpoint

from distil_nlp.build import Assembly
from distil_nlp.data.embedding import Embedding, embedding_files
from distil_nlp.errors import RecipeError
from distil_nlp.recipe import Recipe

RECIPE = """\
task: {{name: feature-extraction, dataset: rows.csv{task}}}
teacher: {{model: {model}{teacher}}}
student: {{num_layers: 2}}
{more}
"""


@pytest.fixture
def load(tmp_path):
    def load(*, model="org/teacher", task="", teacher="", more=""):
        path = tmp_path / "r.yaml"
        path.write_text(RECIPE.format(model=model, task=task, teacher=teacher, more=more), encoding="utf-8")
        return Recipe.load(path)

    return load


@pytest.mark.parametrize(
    ("changes", "place", "words"),
    [
        ({"more": "control: true"}, "r.yaml:4:1", "without a teacher"),
        ({"more": "objectives: {task_loss: {}, rkd: {}}"}, "r.yaml:4:14", "have no labels"),
        ({"teacher": ", fine_tune: {}"}, "r.yaml:2:31", "knows the task"),
        ({"task": ", score: alike"}, "r.yaml:1:53", "`text_pair`"),
        ({"task": ", pooling: means"}, "r.yaml:1:53", "Did you mean 'mean'"),
    ],
)
def test_what_needs_labels_is_refused_at_its_line(load, changes, place, words):
    with pytest.raises(RecipeError) as error:
        load(**changes)
    assert place in str(error.value)
    assert words in str(error.value)


def test_the_loss_is_of_embeddings_unless_the_recipe_says_otherwise(load, tmp_path):
    model = save_checkpoint(tmp_path / "plain")
    (objective,) = Assembly(load(model=model)).objectives()
    assert (objective.name, objective.pooling, objective.normalize) == ("sentence_embeddings", "mean", False)


def test_objectives_pool_as_the_teachers_folder_says(load, tmp_path):
    model = save_checkpoint(tmp_path / "model")
    for path, value in embedding_files(Embedding("cls", normalize=True), width=32, max_length=8).items():
        (model / path).parent.mkdir(exist_ok=True)
        (model / path).write_text(json.dumps(value), encoding="utf-8")
    more = (
        "objectives: {sentence_embeddings: {normalize: false}, rkd: {}, hidden_states:, contrastive: {pooling: mean}}"
    )
    made = Assembly(load(model=model, more=more)).objectives()
    assert (made[0].pooling, made[0].normalize) == ("cls", False)
    assert [o.pooling for o in made if o.name in ("rkd", "contrastive")] == ["cls", "mean"]
    last = Assembly(load(model=model, task=", pooling: last")).objectives()[0]
    assert (last.pooling, last.normalize) == ("last", True)
