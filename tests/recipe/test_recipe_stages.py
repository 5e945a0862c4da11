"""What a recipe says of several stages, and what it cannot say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from distil_nlp.build.loss import make_objectives, make_schedules, make_weighting
from distil_nlp.errors import RecipeError
from distil_nlp.recipe import Recipe

Load = Callable[..., Recipe]
RECIPE = """\
task: {task}
teacher: {teacher}
student: {student}
stages:
  general:
    text: {text}
    objectives: {general}
    training: {{max_steps: 5}}
  features:
    objectives: {{hidden_states: {{}}}}
    weighting: {{method: uncertainty, learning_rate: 0.5}}
training: {{max_steps: 7}}
"""
USUAL = {
    "task": "{name: text-classification, dataset: rows.csv}",
    "teacher": "{model: org/teacher, fine_tune: {}}",
    "student": "{num_layers: 2, start: pretrained}",
    "text": "texts.txt",
    "general": "{minilm_v2: {weight: {schedule: linear, start: 2, end: 1}}}",
}


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(*overrides: str, **changes: str) -> Recipe:
        (tmp_path / "r.yaml").write_text(RECIPE.format(**{**USUAL, **changes}), encoding="utf-8")
        return Recipe.load(tmp_path / "r.yaml", overrides)

    return load


def test_the_last_stage_is_one_like_the_others(load: Load, tmp_path: Path) -> None:
    recipe = load("stages.general.training.max_steps=10")
    stages = recipe.distillation
    assert [stage.model for stage in stages] == ["student_general", "student_features", "student"]
    assert [stage.training for stage in stages] == [{"max_steps": 10}, {}, {"max_steps": 7}]
    assert [stage.text and stage.text.dataset for stage in stages] == ["texts.txt", None, None]
    assert [stage.key("training") for stage in stages] == [
        "stages.general.training",
        "stages.features.training",
        "training",
    ]
    recipe.save(tmp_path / "saved.yaml")
    saved = Recipe.load(tmp_path / "saved.yaml")
    assert saved == recipe
    assert list(saved.stages) == ["general", "features"]


def test_the_loss_is_that_of_the_stage(load: Load) -> None:
    recipe = load()
    made = [make_objectives(recipe, stage) for stage in recipe.distillation]
    assert [[o.name for o in each] for each in made] == [["minilm_v2"], ["hidden_states"], ["task_loss", "logits_kl"]]
    assert made[0][0].weight == 2.0
    callbacks = [make_schedules(recipe, *pair) for pair in zip(recipe.distillation, made, strict=True)]
    assert [[c.name for c in each] for each in callbacks] == [["minilm_v2/weight"], [], []]
    weightings = [make_weighting(recipe, stage) for stage in recipe.distillation]
    assert weightings[0] is None
    assert weightings[1].learning_rate == 0.5
    assert weightings[2] is None


def test_a_recipe_without_stages_has_one(load: Load) -> None:
    recipe = load("stages=null")
    assert [stage.model for stage in recipe.distillation] == ["student"]


@pytest.mark.parametrize(
    ("changes", "place", "words"),
    [
        ({"student": "{num_layers: 2}"}, "r.yaml:6:5", "Give student.start: pretrained"),
        ({"teacher": "{model: org/teacher}"}, "r.yaml:6:5", "Give teacher.base"),
        ({"task": "{name: question-answering, dataset: d}"}, "r.yaml:6:5", "cannot have text without labels"),
        ({"text": "{dataset: t.csv, columns: {txt: a}}"}, "r.yaml:6:28", "Did you mean 'text'"),
        ({"text": "{dataset: t.csv, columns: {text_pair: a}}"}, "r.yaml:6:28", "each text is by itself"),
        ({"text": "{dataset: t.csv, sha256: 12}"}, "r.yaml:6:28", "sha256"),
        ({"text": "{datset: t.csv}"}, "r.yaml:6:12", "Did you mean 'dataset'"),
        ({"general": "{}"}, "r.yaml:7:5", "at least 1"),
    ],
)
def test_what_does_not_go_together_is_refused(load: Load, changes: dict[str, str], place: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(**changes)
    assert place in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("general", "place", "words"),
    [
        ("{task_loss: {}}", "r.yaml:7:18", "task_loss is about predictions"),
        ("{hidden_states: {}, logits_kl: {}}", "r.yaml:7:37", "logits_kl is about predictions"),
        ("{dkd: {}}", "r.yaml:7:18", "dkd is about predictions"),
        ("{hidden_stats: {}}", "r.yaml:7:18", "Did you mean 'hidden_states'"),
        ("{minilm_v2: {weight: {schedule: lineal}}}", "r.yaml:7:30", "Did you mean 'linear'"),
    ],
)
def test_an_objective_that_cannot_be_has_its_line(load: Load, general: str, place: str, words: str) -> None:
    recipe = load(general=general)
    with pytest.raises(RecipeError) as caught:
        make_objectives(recipe, recipe.distillation[0])
    assert place in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.features.training.max_stps=3", "Did you mean 'max_steps'"),
        ("stages.features.training.seed=3", "One seed is used for the whole run"),
        ("stages.features.trainig.max_steps=3", "Did you mean 'training'"),
        ("stages.features.weighting.method=grad", "grad_norm"),
        ('stages={"a/b": {objectives: {attentions: {}}}}', "use letters, digits"),
        ("stages.features.objectives=null", "at least 1"),
    ],
)
def test_overrides_are_checked(load: Load, override: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        load(override)


def test_a_student_with_a_checkpoint_of_its_own_needs_no_start(load: Load) -> None:
    assert load(student="{model: org/small}").distillation[0].text is not None


def test_a_task_without_labels_has_no_task_loss_in_any_stage(load: Load) -> None:
    task = "{name: feature-extraction, dataset: rows.csv}"
    teacher = "{model: org/teacher, base: org/base}"
    assert load(task=task, teacher=teacher).distillation[0].text is not None
    with pytest.raises(RecipeError, match=r"'stages\.features\.objectives\.task_loss'"):
        load("stages.features.objectives.task_loss={}", task=task, teacher=teacher)


def test_groups_come_side_by_side_in_stages_on_the_task_alone(load: Load) -> None:
    task = "{name: text-classification, dataset: rows.csv, group: query}"
    sampled = "training.train_sampling_strategy=group_by_length"
    assert load(f"stages.general.{sampled}", task=task)
    with pytest.raises(RecipeError, match=r"stages\.features\.training\.train_sampling_strategy"):
        load(f"stages.features.{sampled}", task=task)
