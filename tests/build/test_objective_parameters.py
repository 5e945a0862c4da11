"""Parameters of objectives in a recipe, and what the documentation says of them."""

import inspect
import re
from pathlib import Path

import pytest
import yaml

from distil_nlp.build.loss import make_objectives
from distil_nlp.errors import RecipeError
from distil_nlp.evaluation.metrics import METRICS
from distil_nlp.mapping import LayerMapping
from distil_nlp.objectives import OBJECTIVES
from distil_nlp.recipe import Recipe

DOCS = Path(__file__).parents[2] / "docs"
RECIPE = """
task: {name: text-classification, dataset: rows.csv}
teacher: {model: org/model}
student: {num_layers: 2}
objectives:
  OBJECTIVE
"""


def made(folder, objective):
    file = folder / "recipe.yaml"
    file.write_text(RECIPE.replace("OBJECTIVE", objective))
    recipe = Recipe.load(file)
    return make_objectives(recipe, recipe.distillation[-1])


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ("logits_kl: {temperatur: 4}", r"6:3: .*no parameter 'temperatur'.*mean 'temperature'\?.*standardize"),
        ('logits_kl: {temperature: "4"}', "6:3: 'logits_kl.temperature' cannot be '4'.*a number.*without quotes: 4$"),
        ("logits_kl: {weight: '0,5'}", r"cannot be '0,5'.*a number\.$"),
        ("logits_kl: {weight: true}", "cannot be True.*a number"),
        ("logits_kl: {temperature: [4, 1]}", "a number"),
        ("logits_kl: {temperature: null}", "a number"),
        ("logits_kl: {standardize: no}", "cannot be 'no'.*true or false"),
        ("logits_topk_kl: {k: 2.5}", "a whole number"),
        ("hidden_states: {loss: 3}", "a text"),
    ],
)
def test_wrong_parameters_are_refused_by_name(tmp_path, objective, words):
    with pytest.raises(RecipeError, match=f"(?s){words}"):
        made(tmp_path, objective)


def test_right_ones_are_taken(tmp_path):
    [objective] = made(tmp_path, "logits_skew_kl: {weight: 1, temperature: 2, alpha: 0.2, direction: reverse}")
    assert (objective.weight, objective.temperature, objective.alpha, objective.direction) == (1, 2, 0.2, "reverse")
    assert made(tmp_path, "minilm_v2: {relation_heads: 4, relations: {query: 1}}")[0].relations == {"query": 1.0}
    assert made(tmp_path, "hidden_states: {mapping: {1: 2}, projection: {kind: linear}}")[0].mapping.spec == [(1, 2)]


def documented():
    """From the table of parameters: by objective its class, and defaults by name."""
    section = (DOCS / "objectives.md").read_text(encoding="utf-8").split("## Parameters")[1].split("\n## ")[0]
    found = {}
    for line in section.split("| parameter |")[0].splitlines():
        if line.startswith("| `"):
            name, kind, parameters = (cell.strip() for cell in line.strip("|").split("|"))
            listed = re.findall(r"`(\w+): ([^`]+)`", parameters)
            found[name.strip("`")] = kind.strip("`"), {key: yaml.safe_load(value) for key, value in listed}
    return found


def test_the_documentation_has_every_parameter_and_its_default():
    table = documented()
    assert set(table) == set(OBJECTIVES)
    for name, (kind, defaults) in table.items():
        taken = inspect.signature(OBJECTIVES[name]).parameters
        right = {key: parameter.default for key, parameter in taken.items() if key != "weight"}
        assert taken["weight"].default == 1.0
        assert kind == OBJECTIVES[name].__name__
        for values in (right, defaults):
            if "mapping" in values:
                values["mapping"] = LayerMapping(values["mapping"]).spec
        assert defaults == right, name


def test_the_documentation_describes_every_objective_and_every_metric():
    objectives, metrics = ((DOCS / page).read_text(encoding="utf-8") for page in ("objectives.md", "data.md"))
    for name in OBJECTIVES:
        assert f"| `{name}` |" in objectives.split("## Parameters")[0]
        assert f"::: distil_nlp.objectives.{OBJECTIVES[name].__name__}\n" in objectives
    for name in METRICS:
        assert f"`{name}`" in metrics.split("## Metrics")[1], name
