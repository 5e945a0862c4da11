"""Distillation in several stages: on text under the pre-trained checkpoint, on features, and on predictions."""

from __future__ import annotations

import csv
import json
import random
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_run import FILLERS, TRAINING, Case, build_tokenizer, command
from transformers import AutoModel

from distil_nlp.build import Assembly
from distil_nlp.recipe import Recipe
from distil_nlp.run.folder import RunFolder
from distil_nlp.training import DistillationTrainer

MODELS = ("student_general", "student_features", "student", "control_pretrained")
EMBEDDINGS = "bert.embeddings.word_embeddings.weight"
STEPS = {"student_general": 30, "student_features": 6, "student": 8}
SAVED = {"save_strategy": "steps", "save_steps": 2}
Finished = tuple[Path, Path, str, dict[str, list[Any]]]


def write_texts(path: Path, *others: str) -> Path:
    dice = random.Random(3)
    texts = [" ".join(dice.choices(FILLERS, k=9)) for _ in range(60)]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["sentence"], *([text] for text in (*texts, *others))])
    return path


def staged(case: Case, folder: Path, *others: str, **changes: Any) -> Path:
    """A recipe of three stages; ``others`` are more texts for the first."""
    folder.mkdir(parents=True, exist_ok=True)
    text = {"dataset": str(write_texts(folder / "texts.csv", *others)), "columns": {"text": "sentence"}}
    general = {
        "text": text,
        "objectives": {"hidden_states": {"weight": {"schedule": "linear", "start": 2.0, "end": 1.0}}, "minilm_v2": {}},
        "weighting": {"method": "uncertainty"},
        "training": {**TRAINING, **SAVED, "max_steps": 30},
    }
    features = {
        "objectives": {"hidden_states": {"mapping": "cka"}, "attentions": {}},
        "training": {**TRAINING, **SAVED, "max_steps": 6},
    }
    values = {
        "teacher__fine_tune": {"num_train_epochs": 2, **TRAINING},
        "student": {"num_layers": 2, "start": "pretrained"},
        "stages": {"general": general, "features": features},
        "objectives": {"logits_kl": {}, "task_loss": {}},
        "training": {**TRAINING, **SAVED, "max_steps": 8},
        "control": ["pretrained"],
        "export": None,
    }
    return case.recipe(folder, **(values | changes))


def watch(patch: pytest.MonkeyPatch, seen: Callable[[str, DistillationTrainer, Any], None]) -> None:
    """Calls a function with the name of the model, its trainer and the batch before each training step."""
    compute_loss = DistillationTrainer.compute_loss

    def watched(self: DistillationTrainer, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if model.training:
            seen(Path(str(self.args.output_dir)).name, self, inputs)
        return compute_loss(self, model, inputs, *args, **kwargs)

    patch.setattr(DistillationTrainer, "compute_loss", watched)


@pytest.fixture(scope="module")
def run(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The recipe, the run's folder, what it printed, and of each model what its trainings saw."""
    folder = tmp_path_factory.mktemp("stages")
    held_out = Assembly(Recipe.load(case.recipe(folder))).data.splits["test"]["text"][:3]
    recipe, seen = staged(case, folder, *held_out), {}

    def note(name: str, trainer: DistillationTrainer, batch: Any) -> None:
        names = sorted(trainer.term_names)
        first = {key: value.clone() for key, value in trainer.model.state_dict().items()} if name not in seen else None
        seen.setdefault(name, []).append((names, first, batch["input_ids"].tolist()))

    with pytest.MonkeyPatch.context() as patch:
        watch(patch, note)
        outcome = command("run", recipe, "--output-dir", folder / "run")
    assert outcome.code == 0, outcome.err
    return recipe, folder / "run", outcome.out, seen


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same(folder: Path, expected: Path) -> None:
    for name in MODELS:
        left, right = weights(folder / name), weights(expected / name)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left), name


def test_each_stage_has_its_own_terms_rows_and_steps(run: Finished) -> None:
    recipe, _, printed, seen = run
    terms = {name: steps[0][0] for name, steps in seen.items() if name in STEPS}
    assert terms["student_general"] == ["hidden_states", "minilm_v2", "uncertainty"]
    assert terms["student_features"] == ["attentions", "hidden_states"]
    assert terms["student"] == ["logits_kl", "task_loss"]
    assert {name: len(seen[name]) for name in STEPS} == STEPS
    assert len(seen["control_pretrained"]) == 14  # as often as the student has seen the task's rows
    with (recipe.parent / "texts.csv").open(encoding="utf-8") as file:
        texts = {row[0] for row in list(csv.reader(file))[1:61]}  # without those of the test split
    tokenizer = build_tokenizer()
    read = [tokenizer.decode(ids, skip_special_tokens=True) for _, _, batch in seen["student_general"] for ids in batch]
    assert set(read) == texts
    assert "60 texts; 3 left out (in validation or test)" in " ".join(printed.split())
    rows = Assembly(Recipe.load(recipe)).data.splits["train"]["text"]
    read = [
        tokenizer.decode(ids, skip_special_tokens=True) for _, _, batch in seen["student_features"] for ids in batch
    ]
    assert set(read) <= set(rows)


def test_each_stage_goes_on_with_the_weights_of_the_one_before(run: Finished) -> None:
    recipe, folder, _, seen = run
    before = {"student_features": "student_general", "student": "student_features"}
    for name, former in before.items():
        first, left = seen[name][0][1], weights(folder / former)
        assert all(torch.equal(first[key], left[key]) for key in left)
    parts = Assembly(Recipe.load(recipe))
    start = parts.student(parts.load_saved(folder / "teacher")).state_dict()
    assert all(torch.equal(seen["student_general"][0][1][key], value) for key, value in start.items())


def test_the_first_stage_brings_hidden_states_nearer_to_the_pretrained_ones(case: Case, run: Finished) -> None:
    """The last layer's states of fresh text under the best linear map, of which so much is left over."""
    _, folder, _, seen = run
    dice = random.Random(9)
    texts = [" ".join(dice.choices(FILLERS, k=9)) for _ in range(40)]
    batch = build_tokenizer()(texts, return_tensors="pt", padding=True)

    def states(model: Any) -> np.ndarray:
        with torch.no_grad():
            return model.eval()(**batch).last_hidden_state[:, 1:-1].flatten(0, 1).double().numpy()

    def left_over(student: Any, teacher: np.ndarray) -> float:
        ours = np.c_[states(student), np.ones(len(teacher))]
        found, *_ = np.linalg.lstsq(ours, teacher, rcond=None)
        return float(np.square(ours @ found - teacher).sum() / np.square(teacher - teacher.mean(0)).sum())

    pretrained, fine_tuned = (states(AutoModel.from_pretrained(path)) for path in (case.model, folder / "teacher"))
    after = AutoModel.from_pretrained(folder / "student_general")
    start = AutoModel.from_pretrained(folder / "student_general")
    head = {key.removeprefix("bert."): value for key, value in seen["student_general"][0][1].items()}
    start.load_state_dict({key: head[key] for key in start.state_dict() if key in head}, strict=False)
    gained = left_over(start, pretrained) - left_over(after, pretrained)
    assert gained > 0.05
    assert gained > left_over(start, fine_tuned) - left_over(after, fine_tuned)


def test_the_report_has_every_stage(run: Finished) -> None:
    _, folder, _, _ = run
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    curves = {(curve["run"], curve["term"]): curve for curve in report["loss_curves"]}
    assert ("student_general", "minilm_v2") in curves
    assert ("student_features", "attentions") in curves
    assert curves["student_general", "loss"]["steps"][-1] == 30
    stages = {stage["name"]: stage for stage in report["cost"]}
    assert list(stages)[:5] == ["teach", "student_general", "student_features", "distill", "control"]
    assert all(stages[name]["seconds"] > 0 and stages[name]["parameters"] for name in ("student_general", "distill"))
    maps = [entry["name"] for entry in report["layer_maps"]]
    assert "hidden_states (student_features)" in maps
    result = json.loads((folder / "results" / "distill.json").read_text(encoding="utf-8"))
    steps = {name: part["steps"] for name, part in result["stages"].items()} | {"student": result["steps"]}
    assert steps == STEPS
    assert result["stages"]["student_general"]["rows"] == 60
    assert "student_general" in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("model", "step"), [("student_general", 17), ("student_features", 0), ("student_features", 3), ("student", 5)]
)
def test_an_interrupted_run_ends_as_if_it_had_not_been(run: Finished, tmp_path: Path, model: str, step: int) -> None:
    recipe, finished, _, _ = run
    folder, steps = tmp_path / "run", {}
    shutil.copytree(finished, folder)
    for name in ("distill", "control", "evaluate", "bench", "report"):
        (folder / "results" / f"{name}.json").unlink()
    for name in MODELS:
        shutil.rmtree(folder / name)

    def count(name: str, trainer: DistillationTrainer, batch: Any) -> None:
        steps[name] = steps.get(name, 0) + 1
        if name == model and steps[name] > step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        watch(patch, count)
        assert command("run", recipe, "--output-dir", folder, "--resume").code == 130
    done = list(STEPS)[: list(STEPS).index(model)]
    assert all((folder / "results" / f"{name}.json").is_file() for name in done)
    steps.clear()
    with pytest.MonkeyPatch.context() as patch:
        watch(patch, lambda name, trainer, batch: steps.update({name: steps.get(name, 0) + 1}))
        outcome = command("run", recipe, "--output-dir", folder, "--resume")
    assert outcome.code == 0, outcome.err
    assert not set(done) & set(steps)
    assert steps[model] == STEPS[model] - step // 2 * 2  # from its newest checkpoint
    assert_same(folder, finished)
    assert not list((folder / "results").glob("student*"))


def test_a_changed_stage_sets_its_students_aside(run: Finished, tmp_path: Path) -> None:
    recipe, finished, _, _ = run
    shutil.copytree(finished, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    folder.describe(Recipe.load(recipe, ["stages.general.training.max_steps=10"]))
    assert folder.has("teach")
    assert not folder.has("distill")
    assert (folder.path / "student_general.outdated").is_dir()
    shutil.copy(finished / "recipe.yaml", folder.path)
    other = Recipe.load(recipe)
    turned = other.model_copy(update={"stages": dict(reversed(other.stages.items()))})
    with pytest.raises(Exception, match=r"these differ: stages\."):
        folder.check_start(turned, resume=True)


def test_check_tries_every_stage(case: Case, tmp_path: Path) -> None:
    outcome = command("check", staged(case, tmp_path), "control=false")
    assert outcome.code == 0, outcome.err
    said = " ".join(outcome.out.split())
    assert "general 60" in said
    assert "layers general: hidden_states: 1 <- 2, 2 <- 4" in said
    assert "general: minilm_v2 " in said
    assert "features: attentions " in said
    assert ", logits_kl " in said


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.general.objectives={task_loss: {}}", "task_loss is about predictions"),
        ("stages.general.objectives={hidden_states: {}, logits_mse: {}}", "logits_mse is about predictions"),
        ("stages.features.objectives={hidden_stats: {}}", "Did you mean 'hidden_states'"),
        ("stages.features.objectives={hidden_states: {mapping: {1: 9}}}", "9"),
        ("stages.general.text.columns={text: words}", "no column 'words'"),
    ],
)
def test_check_names_what_cannot_be(case: Case, tmp_path: Path, override: str, words: str) -> None:
    outcome = command("check", staged(case, tmp_path), override)
    assert outcome.code == 1
    assert words in " ".join(outcome.err.split())
    assert "Traceback" not in outcome.err


def test_adapters_and_a_vocabulary_of_its_own_go_through_all_stages(case: Case, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    student = {"num_layers": 2, "start": "pretrained", "lora": {"rank": 2}, "vocabulary": "task"}
    recipe = staged(case, tmp_path, student=student, control=False)
    outcome = command("run", recipe, "stages.general.training.max_steps=4", "--output-dir", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    left, right = (weights(tmp_path / "run" / name) for name in ("student_general", "student_features"))
    assert left.keys() == right.keys()
    changed = {key for key in left if not torch.equal(left[key], right[key])}
    assert any("attention" in key for key in changed)
    assert not any("embeddings" in key for key in changed)


def test_the_checkpoint_that_teaches_a_stage_on_text_runs_in_the_teachers_dtype(case: Case, tmp_path: Path) -> None:
    recipe = Recipe.load(staged(case, tmp_path, teacher__dtype="bfloat16"))
    parts, stage = Assembly(recipe), recipe.distillation[0]
    nothing: Any = None
    lesson = parts.lesson(stage, nothing)
    assert lesson.guide is lesson.teacher
    assert lesson.teacher.dtype == torch.bfloat16


def test_texts_of_a_task_on_pairs_in_groups_are_alone(case: Case, tmp_path: Path) -> None:
    """A text is one text, even where rows have two and belong to a group."""
    dice, rows = random.Random(5), tmp_path / "pairs.csv"
    with rows.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["words", "other", "feeling", "query"])
        for row in range(120):
            one, two = (" ".join(dice.choices(FILLERS, k=7)) for _ in range(2))
            writer.writerow([one, two, ("negative", "positive")[row % 2], row // 4])
    recipe = Recipe.load(
        staged(
            case,
            tmp_path,
            task__dataset=str(rows),
            task__text_pair="other",
            task__group="query",
            control=False,
        )
    )
    parts = Assembly(recipe)
    held_out = parts.data.splits["test"]["text_pair"][0]
    write_texts(tmp_path / "texts.csv", held_out)
    stage = recipe.distillation[0]
    texts = parts.texts(stage.text)
    assert len(texts) == 60
    assert "group" not in texts.column_names
    assert all(ids.count(3) == 1 for ids in texts["input_ids"])  # [SEP]
    teacher, student = parts.pretrained(), parts.student(parts.pretrained())
    trainer = parts.trainer(
        student,
        teacher=teacher,
        arguments={**TRAINING, "max_steps": 2},
        output_dir=tmp_path / "out",
        rows=texts,
        **parts.loss(student, teacher, stage, texts),
    )
    trainer.train()
    assert trainer.state.global_step == 2


def test_the_script_goes_through_the_stages_and_on_where_it_was(run: Finished, case: Case, tmp_path: Path) -> None:
    recipe, folder, _, _ = run
    script = Path(__file__).parents[2] / "trainers" / "distill.py"
    shutil.copytree(folder / "teacher", tmp_path / "run" / "teacher")
    shutil.copy(folder / "recipe.yaml", tmp_path / "run")
    steps: dict[str, int] = {}
    hub: list[dict[str, Any]] = []
    arguments = ["distill.py", str(recipe), "--output-dir", str(tmp_path / "run"), "--push-to-hub", "me/small"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", arguments)
        patch.setattr("huggingface_hub.HfApi.create_repo", lambda self, repo_id, exist_ok: None)
        patch.setattr("huggingface_hub.HfApi.upload_folder", lambda self, **given: hub.append(given))
        watch(patch, lambda name, *_: steps.update({name: steps.get(name, 0) + 1}))
        runpy.run_path(str(script), run_name="__main__")
        assert steps == STEPS
        runpy.run_path(str(script), run_name="__main__")
    assert steps == STEPS | {"student": 2 * STEPS["student"]}
    assert hub == 2 * [{"repo_id": "me/small", "folder_path": tmp_path / "run" / "student"}]
    first, second = weights(tmp_path / "run" / "student_general"), weights(tmp_path / "run" / "student")
    assert not torch.equal(first[EMBEDDINGS], second[EMBEDDINGS])
    assert not (tmp_path / "run" / "checkpoints" / "student").exists()
