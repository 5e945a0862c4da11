"""Objectives of the user's own, named in recipes as module:Class."""

import shutil
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from tiny_models import batch, tiny_model
from tiny_run import Case, command, save_checkpoint, write_rows

from distil_nlp.blocks import describe
from distil_nlp.build.loss import make_objectives
from distil_nlp.build.outside import objective_class
from distil_nlp.capture import capture
from distil_nlp.errors import RecipeError
from distil_nlp.recipe import Recipe

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "my_objective.py"
GOOD = """
    from distil_nlp.objectives import HiddenStates, Objective
    class Mine(HiddenStates):
        name = "mine"
    class NoObjective:
        name = "none"
    class Nameless(HiddenStates):
        name = ""
    class Taken(HiddenStates):
        pass
    class Unfinished(Objective):
        name = "unfinished"
        def count(self, batch): ...
    number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module into a folder of its own, and forgets it afterwards."""
    known = set(sys.modules)

    def write(source: str = GOOD, name: str = "module_of_a_user") -> Path:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        return tmp_path

    yield write
    for name in set(sys.modules) - known:
        if name.startswith(("module_of_a_user", "my_objective", "package_of_a_user")):
            del sys.modules[name]


def test_a_class_beside_the_recipe_is_found(module):
    folder = module()
    path = list(sys.path)
    found = objective_class("module_of_a_user:Mine", folder)
    assert found().name == "mine"
    assert objective_class("module_of_a_user:Mine", folder) is found
    assert sys.path == path
    assert objective_class("logits_kl", None).name == "logits_kl"


def test_a_class_in_a_package_that_python_finds_itself(module, tmp_path, monkeypatch):
    package = tmp_path / "elsewhere" / "package_of_a_user"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "losses.py").write_text(textwrap.dedent(GOOD))
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    assert objective_class("package_of_a_user.losses:Mine", tmp_path).name == "mine"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("module_of_a_user:Mina", "Did you mean 'Mine'"),
        ("module_of_a_user:NoObjective", "is not an Objective"),
        ("module_of_a_user:number", "is not an Objective"),
        ("module_of_a_user:Nameless", "no name to be logged under"),
        ("module_of_a_user:Taken", "'hidden_states', is that of another objective"),
        ("module_of_a_user:Unfinished", "lacks values"),
        ("module_of_a_usr:Mine", r"no module 'module_of_a_usr' in .*beside the recipe"),
        ("module_of_a_user.sub:Mine", "no module 'module_of_a_user.sub'"),
        ("module_of_a_user:", "Write it as my_module:MyLoss"),
        ("../module_of_a_user:Mine", "Write it as my_module:MyLoss"),
        (":Mine", "Write it as my_module:MyLoss"),
    ],
)
def test_what_is_wrong_is_said(module, name, words):
    folder = module()
    with pytest.raises(RecipeError, match=f"(?s){words}"):
        objective_class(name, folder)


@pytest.mark.parametrize(
    ("source", "words"),
    [("import package_that_is_not_there", "needs 'package_that_is_not_there'"), ("x = (", "cannot be imported")],
)
def test_a_module_that_cannot_be_imported(module, source, words):
    folder = module(source, "module_of_a_user_broken")
    with pytest.raises(RecipeError, match=words):
        objective_class("module_of_a_user_broken:Mine", folder)


def test_a_module_whose_name_is_taken(module):
    folder = module(name="json")
    with pytest.raises(RecipeError, match="Another module 'json' is loaded already"):
        objective_class("json:Mine", folder)


def test_only_a_recipe_named_by_its_path_runs_code(module, tmp_path, monkeypatch):
    folder = module("raise SystemExit('run')")
    with pytest.raises(RecipeError, match="named by the path of their file"):
        objective_class("module_of_a_user:Mine", None)
    monkeypatch.syspath_prepend(folder)
    shipped = Recipe.load("movie_sentiment", ["objectives={'module_of_a_user:Mine': {}}"])
    assert shipped.code_folder is None
    with pytest.raises(RecipeError, match="named by the path of their file"):
        make_objectives(shipped, shipped.distillation[-1])
    shutil.copy(Path(__file__).parents[2] / "tasks" / "movie_sentiment.yaml", tmp_path / "mine.yaml")
    assert Recipe.load(tmp_path / "mine.yaml").code_folder == tmp_path.resolve()


def test_the_example_is_the_mean_absolute_difference(module):
    found = objective_class("my_objective:HiddenL1", EXAMPLE.parent)
    student, teacher, made = tiny_model(seed=1), tiny_model(seed=2), batch()
    objective = found(mapping={2: 3}, weight=0.5)
    objective.bind(describe(student), describe(teacher))
    loss = objective(
        capture(student, made, objective.student_needs), capture(teacher, made, objective.teacher_needs), made
    )
    inputs = made["input_ids"], made["attention_mask"]
    ours, theirs = (m(*inputs, output_hidden_states=True).hidden_states for m in (student, teacher))
    keep = made["attention_mask"].bool()
    torch.testing.assert_close(loss, 0.5 * torch.nn.functional.l1_loss(ours[2][keep], theirs[3][keep]))


def test_the_other_example_is_the_hellinger_distance(module):
    objective = objective_class("my_objective:Hellinger", EXAMPLE.parent)(temperature=2.0, weight=0.5)
    student, teacher, made = tiny_model(seed=1), tiny_model(seed=2), batch()
    objective.bind(describe(student), describe(teacher))
    loss = objective(
        capture(student, made, objective.student_needs), capture(teacher, made, objective.teacher_needs), made
    )
    ours, theirs = (model(made["input_ids"], made["attention_mask"]).logits for model in (student, teacher))
    p, q = (torch.softmax(logits / 2, -1) for logits in (ours, theirs))
    torch.testing.assert_close(loss, 0.5 * (1 - (p * q).sqrt().sum(-1)).mean())


def test_a_recipe_checks_and_distils_with_the_example(module, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTIL_NLP_CACHE", str(tmp_path / "cache"))
    shutil.copy(EXAMPLE, tmp_path)
    case = Case(tmp_path, save_checkpoint(tmp_path / "model"), write_rows(tmp_path / "rows.csv"))
    recipe = case.recipe(
        tmp_path,
        objectives={"task_loss": {}, "my_objective:HiddenL1": {"mapping": "last", "weight": 0.1}},
        training__max_steps=2,
        control=False,
        export=None,
    )
    teach = command("teach", recipe, "--output-dir", tmp_path / "run")
    assert teach.code == 0, teach.err
    outcome = command("distill", recipe, "--output-dir", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert '"hidden_l1"' in (tmp_path / "run" / "results" / "distill.json").read_text()
