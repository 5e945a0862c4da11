"""A whole run that distils sentence embeddings, and one that scores them by pairs of texts."""

import csv
import importlib.util
import json
import random
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from tiny_run import FILLERS, TRAINING, command, save_checkpoint
from transformers import AutoModel, AutoTokenizer

from distil_nlp.build import Assembly
from distil_nlp.data.embedding import Embedding, embedding_files, read_embedding
from distil_nlp.recipe import Recipe
from distil_nlp.references import read_json

EXPORTER = importlib.util.find_spec("transformers.exporters") is not None  # early transformers 5 have none


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A model whose folder says that its embeddings are the first token's, of length 1."""
    folder = save_checkpoint(tmp_path_factory.mktemp("teacher") / "model")
    for path, value in embedding_files(Embedding("cls", normalize=True), width=32, max_length=16).items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(json.dumps(value), encoding="utf-8")
    return folder


def texts(count):
    dice = random.Random(2)
    return [" ".join(dice.choices(FILLERS, k=dice.randint(3, 9))) for _ in range(count)]


def recipe_of(folder, teacher, **changes):
    values = {
        "name": "tiny",
        "task": {
            "name": "feature-extraction",
            "dataset": str(folder / "rows.csv"),
            "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
            "max_length": 16,
        },
        "teacher": {"model": str(teacher)},
        "student": {"layers": [1, 4]},
        "training": {"max_steps": 30, "eval_strategy": "steps", "eval_steps": 15, **TRAINING},
        "evaluation": {"batch_size": 16, "bootstrap_samples": 200},
        "bench": {"batch_sizes": [1], "sequence_length": 8, "repeats": 2, "threads": [1]},
    }
    for section, keys in changes.items():
        values[section] = {**values.get(section, {}), **keys}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / "tiny.yaml"


@pytest.fixture(scope="module")
def run(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with (folder / "rows.csv").open("w", encoding="utf-8") as file:
        file.write("\n".join(["text", *texts(150)]))
    export = {"export": {"backend": "native", "target": "avx2", "max_metric_drop": 0.1}} if EXPORTER else {}
    outcome = command("run", recipe_of(folder, teacher, **export), "--output-dir", folder / "run")
    assert outcome.code == 0, outcome.err
    return folder


def embed(model, tokenizer, text):
    """The first token's state, scaled to length 1."""
    with torch.no_grad():
        state = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0].numpy()
    return state / np.sqrt((state * state).sum())


def loaded(folder):
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def report_of(folder):
    return json.loads((folder / "run" / "report.json").read_text(encoding="utf-8"))


def test_teacher_and_student_say_how_they_pool(run):
    for name in ("teacher", "student"):
        folder = run / "run" / name
        assert read_embedding(lambda path, folder=folder: read_json(folder, path)) == Embedding("cls", normalize=True)
        assert read_json(folder, "sentence_bert_config.json")["max_seq_length"] == 16
        assert AutoModel.from_pretrained(folder).config.num_hidden_layers == (4 if name == "teacher" else 2)


def test_the_score_is_the_mean_cosine_of_the_saved_models(run):
    """By a loop of its own: one text at a time, none of the library's code."""
    test = Assembly(Recipe.load(run / "tiny.yaml")).data.splits["test"]["text"][:]
    models = [loaded(run / "run" / name) for name in ("teacher", "student")]
    cosines = [np.dot(*(embed(*model, text) for model in models)) for text in test]
    rows = {row["name"]: row for row in report_of(run)["rows"]}
    assert rows["student"]["metrics"]["cosine_to_teacher"] == pytest.approx(np.mean(cosines), abs=1e-5)
    assert rows["teacher"]["metrics"]["cosine_to_teacher"] == pytest.approx(1, abs=1e-6)
    low, high = (rows["student"]["interval"][end] for end in ("low", "high"))
    assert low < np.mean(cosines) < high


def test_training_brings_the_student_nearer_and_its_loss_is_evaluated(run):
    history = json.loads((run / "run" / "results" / "distill.json").read_text(encoding="utf-8"))["log_history"]
    terms = [log["sentence_embeddings"] for log in history if "sentence_embeddings" in log]
    evaluated = [log["eval_loss"] for log in history if "eval_loss" in log]
    assert terms[-1] < terms[0] / 2
    assert len(evaluated) == 2
    assert evaluated[1] < evaluated[0]


def test_the_report_does_without_classes_and_controls(run):
    report = report_of(run)
    assert (report["data"]["classes"], report["gain_over_control"]) == ([], {})
    assert "cosine_to_teacher" in (run / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.skipif(not EXPORTER, reason="this transformers has no exporter")
def test_the_graphs_give_the_states_to_pool_and_say_how(run):
    folder = run / "run" / "onnx"
    model, tokenizer = loaded(run / "run" / "student")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    inputs = tokenizer(["the film was rather good"], return_tensors="np")
    states = session.run(["last_hidden_state"], {name: inputs[name] for name in names})[0]
    ours = states[0, 0] / np.linalg.norm(states[0, 0])
    np.testing.assert_allclose(ours, embed(model, tokenizer, "the film was rather good"), atol=1e-5)
    assert read_embedding(lambda path: read_json(folder, path)) == Embedding("cls", normalize=True)
    rows = {row["name"]: row for row in report_of(run)["rows"]}
    assert rows["onnx"]["metrics"]["cosine_to_teacher"] == pytest.approx(
        rows["student"]["metrics"]["cosine_to_teacher"], abs=1e-5
    )
    assert rows["onnx_int8"]["metrics"]["cosine_to_teacher"] > 0.5


def test_pairs_are_scored_by_the_order_of_their_cosines(teacher, tmp_path):
    """Train rows may lack a second text and a score; a narrower student is projected."""
    one, two = texts(80), texts(80)[::-1]
    data = tmp_path / "data"
    data.mkdir()
    models = loaded(teacher)
    for split, rows in {"train": range(40), "validation": range(40, 60), "test": range(60, 80)}.items():
        with (data / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "other", "alike"])
            for row in rows:
                score = 5 * np.dot(embed(*models, one[row]), embed(*models, two[row]))
                writer.writerow([one[row], *(["", ""] if split == "train" else [two[row], score])])
    narrow = save_checkpoint(tmp_path / "narrow", hidden_size=16, num_hidden_layers=2, seed=3)
    recipe = recipe_of(
        tmp_path,
        teacher,
        task={"dataset": str(data), "text_pair": "other", "score": "alike"},
        training={"eval_strategy": "no", "max_steps": 5},
    )
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    changes = ["student.model=" + str(narrow), "student.layers=null"]
    for stage in ("teach", "distill", "evaluate"):
        outcome = command(stage, recipe, *changes, "--output-dir", tmp_path / "run")
        assert outcome.code == 0, outcome.err
    artefacts = json.loads((tmp_path / "run" / "results" / "evaluate.json").read_text(encoding="utf-8"))["artefacts"]
    assert artefacts["teacher"]["metrics"]["spearman"] == pytest.approx(1)
    student = loaded(tmp_path / "run" / "student")
    ours = [np.dot(embed(*student, one[row]), embed(*student, two[row])) for row in range(60, 80)]
    theirs = [np.dot(embed(*models, one[row]), embed(*models, two[row])) for row in range(60, 80)]
    ranks = [np.argsort(np.argsort(values)) for values in (ours, theirs)]
    assert artefacts["student"]["metrics"]["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-6)
