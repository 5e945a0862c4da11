"""By what the best checkpoint is found: what an evaluation gives, the lowest where less is better."""

import pytest
from test_bad_input import assert_one_error, line_of
from tiny_run import TRAINING, command

from distil_nlp.build import Assembly
from distil_nlp.recipe import Recipe

EVALUATED = {"load_best_model_at_end": True, "eval_strategy": "epoch"}


def chosen_by(name, **others):
    return {**TRAINING, **EVALUATED, "num_train_epochs": 1, "metric_for_best_model": name, **others}


@pytest.mark.parametrize(
    ("section", "name", "words"),
    [
        ("training", "acuracy", ["the student", "Did you mean 'accuracy'?", "logits_kl"]),
        ("training", "entity_f1", ["the student", "Known: "]),
        ("training", "accuracy_micro", ["the student", "Known: "]),  # what the library has gives one value
        ("training", "logits_kl", ["a control, which has no teacher,", "task_loss"]),
        ("teacher__fine_tune", "logits_kl", ["a teacher", "task_loss"]),
    ],
)
def test_what_no_evaluation_gives(case, tmp_path, section, name, words):
    changes = {section: chosen_by(name), **({} if "control" in words[0] else {"control": False})}
    recipe = case.recipe(tmp_path, **changes)
    outcome = command("check", recipe)
    assert_one_error(outcome, repr(name), "metric_for_best_model", *words)
    assert line_of(recipe, "metric_for_best_model") in outcome.err


@pytest.mark.parametrize("name", ["loss", "eval_accuracy", "task_loss"])
def test_what_each_training_gives(case, tmp_path, name):
    changes = {"training": chosen_by(name), "teacher__fine_tune": chosen_by(name)}
    assert command("check", case.recipe(tmp_path, **changes)).code == 0


@pytest.mark.parametrize(
    ("name", "metrics", "greater"),
    [("mse", ["mse"], False), ("eval_mse", ["mse"], False), ("pearson", ["mse", "pearson"], True)],
)
def test_the_lowest_where_less_is_better(case, tmp_path, name, metrics, greater):
    changes = {"task__problem": "regression", "task__metrics": metrics, "objectives": {"logits_mse": {}}}
    assembly = Assembly(Recipe.load(case.recipe(tmp_path, **changes)))
    assert assembly.training_arguments(chosen_by(name), tmp_path).greater_is_better is greater
    assert assembly.training_arguments(chosen_by("logits_mse"), tmp_path).greater_is_better is False
    own = chosen_by(name, greater_is_better=not greater)
    assert assembly.training_arguments(own, tmp_path).greater_is_better is not greater


def test_batches_of_more_rows_than_there_are(case, tmp_path):
    changes = {"training": {**TRAINING, "per_device_train_batch_size": 10_000, "dataloader_drop_last": True}}
    assert_one_error(command("check", case.recipe(tmp_path, **changes)), "dataloader_drop_last", "rows to train on")
