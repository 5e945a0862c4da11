"""What a recipe says of the loss, from YAML to objects."""

import pytest
from tiny_run import Case, save_checkpoint, write_rows

from distil_nlp.build import Assembly
from distil_nlp.build.loss import make_objectives, make_schedules, make_weighting
from distil_nlp.data.tasks import TASKS
from distil_nlp.errors import RecipeError
from distil_nlp.recipe import Recipe
from distil_nlp.training import Cosine, GradNorm, Linear, Uncertainty

HEAD = """\
task: {name: text-classification, dataset: rows.csv}
teacher: {model: org/teacher, fine_tune: {}}
student: {num_layers: 2}
"""
SCHEDULED = """\
objectives:
  task_loss:
  logits_kl:
    weight: {schedule: linear, start: 1.0, end: 0.2}
    temperature: {schedule: cosine, start: 8, end: 1}
  hidden_states: {mapping: {1: 2}}
"""


@pytest.fixture
def load(tmp_path):
    def load(text: str) -> Recipe:
        path = tmp_path / "r.yaml"
        path.write_text(HEAD + text, encoding="utf-8")
        return Recipe.load(path)

    return load


def test_schedules_start_with_their_first_value(load):
    recipe = load(SCHEDULED)
    objectives = make_objectives(recipe, recipe.distillation[-1])
    assert (objectives[1].weight, objectives[1].temperature) == (1.0, 8.0)
    callbacks = make_schedules(recipe, recipe.distillation[-1], objectives)
    assert [(c.name, c.schedule) for c in callbacks] == [
        ("logits_kl/weight", Linear(1.0, 0.2)),
        ("logits_kl/temperature", Cosine(8.0, 1.0)),
    ]
    assert all(c.objective is objectives[1] for c in callbacks)


def test_tags_have_default_objectives_of_their_own():
    assert TASKS["token-classification"].default_objectives == {"logits_mse": {}}
    assert TASKS["question-answering"].default_objectives.keys() == {"task_loss", "logits_kl"}


def test_the_default_objectives_follow_no_schedule(load):
    recipe = load("")
    objectives = make_objectives(recipe, recipe.distillation[-1])
    assert [o.name for o in objectives] == ["task_loss", "logits_kl"]
    assert make_schedules(recipe, recipe.distillation[-1], objectives) == []
    assert make_weighting(recipe, recipe.distillation[-1]) is None


@pytest.mark.parametrize(
    ("terms", "place", "words"),
    [
        ("{logits_kl: {weight: {schedule: lineal, start: 1, end: 0}}}", "r.yaml:4:26", "Did you mean 'linear'"),
        ("{logits_kl: {weight: {schedule: switch, at: 0.5}}}", "r.yaml:4:26", "lacks before and after"),
        ("{logits_kl: {temperature: {schedule: warmup, value: 4}}}", "r.yaml:4", "must be above 0"),
        ("{logits_kl: {weight: {schedule: linear, start: 1, end: -1}}}", "r.yaml:4:26", "down to -1"),
        ("{logits_kl: {standardize: {schedule: constant, value: 1}}}", "r.yaml:4:26", "Weights and temperatures"),
        ("{logits_kl: {confidence: max}}", "r.yaml:4:14", "Known: entropy, max_prob"),
    ],
)
def test_mistakes_have_their_place(load, terms, place, words):
    recipe = load(f"objectives: {terms}\n")
    with pytest.raises(RecipeError, match=words) as caught:
        make_schedules(recipe, recipe.distillation[-1], make_objectives(recipe, recipe.distillation[-1]))
    assert place in str(caught.value)


def test_weightings_have_their_defaults_filled_in(load, tmp_path):
    uncertainty = load("weighting: {method: uncertainty}\n")
    made = make_weighting(uncertainty, uncertainty.distillation[-1])
    assert isinstance(made, Uncertainty)
    assert made.learning_rate == 0.01
    recipe = load("weighting: {method: grad_norm, alpha: 0.5, every: 5}\n")
    made = make_weighting(recipe, recipe.distillation[-1])
    assert isinstance(made, GradNorm)
    assert (made.alpha, made.every, made.rate) == (0.5, 5, 0.2)
    recipe.save(tmp_path / "saved.yaml")
    assert "rate: 0.2" in (tmp_path / "saved.yaml").read_text()
    assert Recipe.load(tmp_path / "saved.yaml").weighting == recipe.weighting


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("{method: uncertain}", "Did you mean 'uncertainty'"),
        ("{method: uncertainty, alpha: 1.0}", "'weighting.alpha' cannot be used(?s:.*)'uncertainty' has learning_rate"),
        ("{method: grad_norm, evry: 3}", "Did you mean 'every'"),
        ("{method: grad_norm, rate: 2.0}", "'weighting.rate' cannot be 2.0"),
        ("{alpha: 1.0}", "needs the key 'method'"),
    ],
)
def test_malformed_weightings_are_refused(load, section, words):
    with pytest.raises(RecipeError, match=words):
        load(f"weighting: {section}\n")


def test_layers_are_chosen_once_for_all_that_ask(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTIL_NLP_CACHE", str(tmp_path / "cache"))
    case = Case(tmp_path, save_checkpoint(tmp_path / "model"), write_rows(tmp_path / "rows.csv", 60))
    recipe = Recipe.load(
        case.recipe(
            tmp_path,
            objectives={"hidden_states": {"mapping": "cka"}, "attentions": {"mapping": "cka"}, "task_loss": {}},
            weighting={"method": "uncertainty"},
        )
    )
    said = []
    parts = Assembly(recipe, said.append)
    teacher = parts.pretrained()
    loss = parts.loss(parts.student(teacher), teacher)
    first, second, _ = loss["objectives"]
    pairs = first.mapping.spec
    assert [s for s, _ in pairs] == [1, 2]
    assert second.mapping.spec == pairs
    assert f"layers chosen by their similarity: LayerMapping({pairs})" in said
    assert isinstance(loss["weighting"], Uncertainty)
    again = parts.loss(parts.student(teacher), teacher)["objectives"][0]
    assert again.mapping.spec == pairs
