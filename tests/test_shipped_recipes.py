"""Every recipe that ships: it loads, what it names is there and goes together, and what its comments say can be run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig

from distil_nlp.blocks import describe
from distil_nlp.build import Assembly
from distil_nlp.build.loss import make_objectives, make_schedules, make_weighting
from distil_nlp.data.tasks import TASKS
from distil_nlp.evaluation.metrics import METRICS, compute_metrics
from distil_nlp.recipe import Recipe, shipped_recipes
from distil_nlp.references import HubReference, resolve
from distil_nlp.wheels import SCHEME

NAMES = sorted(shipped_recipes())
ENCODERS = ("feature-extraction", "fill-mask", "question-answering", "text-classification", "token-classification")


def comments(name: str) -> str:
    """The comment at the top."""
    lines = shipped_recipes()[name].read_text(encoding="utf-8").splitlines()
    return "\n".join(line.lstrip("# ") for line in lines[: next(i for i, line in enumerate(lines) if line[:1] != "#")])


def commands(name: str) -> list[list[str]]:
    """The overrides of each command that the comment shows, with a folder for FOLDER."""
    text = re.sub(r"\\\n\s*", "", comments(name))
    found = [re.sub(r"\s{2,}\(.*", "", line) for line in text.splitlines() if line.startswith("distil-nlp run")]
    return [shlex.split(line.replace("FOLDER", "some/folder"))[2:] for line in found]


@pytest.mark.parametrize("name", NAMES)
def test_what_its_comments_say_can_be_run(name: str) -> None:
    said = commands(name)
    assert [name] in said
    for asked, *overrides in said:
        recipe = Recipe.load(asked, overrides)
        assert recipe.name == name
        for override in overrides:
            key, _, value = override.partition("=")
            assert key.split(".")[0] in recipe.to_yaml()
            if value == "some/folder":
                assert recipe.task.dataset == value
                assert recipe.task.sha256 is recipe.task.config is recipe.task.split_names is None


@pytest.mark.parametrize("name", NAMES)
def test_it_names_no_path_of_this_machine(name: str) -> None:
    recipe = Recipe.load(name)
    references = [recipe.task.dataset, *re.findall(r"^ +model: (.+)$", recipe.to_yaml(), re.M)]
    for reference in [each for each in references if each != "null"]:
        if not reference.startswith(SCHEME):  # whose form and sha256 a recipe checks itself
            assert isinstance(resolve(reference, kind="data"), HubReference)
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", reference)
    assert "/work" not in shipped_recipes()[name].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_its_metrics_suit_its_task_and_need_no_network(name: str) -> None:
    recipe = Recipe.load(name)
    task = TASKS[recipe.task.name](recipe.task)
    asked = recipe.task.metrics or task.metrics
    assert set(asked) <= set(METRICS)
    for metric in asked:
        assert METRICS[metric].takes == task.predicts
    if {METRICS[metric].takes for metric in asked} <= {"class", "labels", "number", "tags", "answer"}:
        compute_metrics(asked, takes=task.predicts)


@pytest.mark.parametrize("name", NAMES)
def test_its_arguments_make_training_arguments(name: str, tmp_path: Path) -> None:
    recipe = Recipe.load(name)
    for arguments in (recipe.training, recipe.teacher.fine_tune or {}):
        without_gpu = {key: value for key, value in arguments.items() if key not in ("bf16", "fp16", "tf32")}
        Assembly(recipe).training_arguments(without_gpu, tmp_path)


def tiny(task: Any, layers: int) -> Any:
    config = BertConfig(
        vocab_size=32,
        hidden_size=24,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=16,
        **task.model_kwargs(["no", "yes", "perhaps"] if task.predicts in ("class", "labels", "tags") else None),
    )
    return task.auto_class.from_config(config)


@pytest.mark.parametrize("name", [name for name in NAMES if Recipe.load(name).task.name in ENCODERS])
def test_its_terms_suit_the_two_models(name: str) -> None:
    """Models of its kind, with as many layers as it says, and as narrow as can be."""
    recipe = Recipe.load(name)
    task = TASKS[recipe.task.name](recipe.task)
    objectives = make_objectives(recipe, recipe.distillation[-1], task.objective_arguments())
    make_schedules(recipe, recipe.distillation[-1], objectives)
    make_weighting(recipe, recipe.distillation[-1])
    depth = 12 if "bert-base" in recipe.teacher.model else 6
    layers = recipe.student.num_layers or len(recipe.student.layers or range(depth))
    assert max(recipe.student.layers or [layers]) <= depth
    student, teacher = describe(tiny(task, layers)), describe(tiny(task, depth))
    for objective in objectives:
        objective.bind(student, teacher)


def test_those_of_published_results_say_which() -> None:
    for name in NAMES:
        if not Recipe.load(name).task.dataset.startswith(SCHEME):
            assert re.search(r"Published for .*arXiv:\d{4}\.\d{5}", comments(name), re.S)
