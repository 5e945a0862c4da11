"""A whole run whose student has a vocabulary of its own: the tokens that its training texts use."""

from __future__ import annotations

import csv
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from tiny_run import FILLERS, LABELS, SPECIAL, TRAINING, WORDS, Case, Outcome, build_tokenizer, command
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForMaskedLM

from distil_nlp.build import Assembly
from distil_nlp.errors import ModelError
from distil_nlp.recipe import Recipe
from distil_nlp.run import Run
from distil_nlp.run.stages import run_stage
from distil_nlp.students.embeddings import kept_ids
from distil_nlp.training import DistillationTrainer

RARE = [f"rare{number}" for number in range(4)]
UNUSED = [f"unused{number}" for number in range(40)]
VOCABULARY = [*UNUSED[:20], *WORDS, *RARE, *UNUSED[20:]]  # special tokens, too, get other ids
MODELS = ("student", "control_pretrained", "control_same_start")


def write_split(path: Path, rows: int, *, seed: int, also: tuple[str, ...] = (), labelled: bool = True) -> None:
    """Sentences whose feeling one word gives away, but for one in twelve that lies; some have another word."""
    dice = random.Random(seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["words", "feeling"] if labelled else ["words"])
        for row in range(rows):
            words = dice.choices(FILLERS, k=dice.randint(4, 9))
            words.insert(dice.randrange(len(words)), ("bad", "good")[row % 2])
            if also and row % 5 == 0:
                words.insert(dice.randrange(len(words)), dice.choice(also))
            label = LABELS[row % 2 if row % 12 else 1]
            writer.writerow([" ".join(words), label] if labelled else [" ".join(words)])


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A checkpoint with many tokens, and rows of which those to train on have few of them."""
    folder = tmp_path_factory.mktemp("own")
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(VOCABULARY) + 6,
            max_position_embeddings=32,
            initializer_range=0.2,
            pad_token_id=VOCABULARY.index("[PAD]"),
            **sizes,
        )
        BertForMaskedLM(config).save_pretrained(folder / "model")
    build_tokenizer(VOCABULARY).save_pretrained(folder / "model")
    (folder / "rows").mkdir()
    write_split(folder / "rows" / "train.csv", 180, seed=1, also=("rare0",))
    write_split(folder / "rows" / "validation.csv", 60, seed=2)
    write_split(folder / "rows" / "test.csv", 60, seed=3, also=("rare1", "rare2"))
    write_split(folder / "more.csv", 30, seed=4, also=("rare3",), labelled=False)
    return Case(folder, folder / "model", folder / "rows")


@pytest.fixture(scope="module")
def run(own: Case, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    folder = tmp_path_factory.mktemp("vocabulary")
    recipe = own.recipe(
        folder,
        student={"num_layers": 2, "layers": "cka", "vocabulary": "task"},
        task__unlabelled=str(own.folder / "more.csv"),
        task__augment={"copies": 1, "methods": ["ngram"]},
        objectives={"task_loss": {"weight": 0.5}, "logits_kl": {"weight": 0.5}, "hidden_states": {}},
        teacher__store={},
        training={"max_steps": 12, "save_strategy": "steps", "save_steps": 6, **TRAINING},
    )
    outcome = command("run", recipe, "--output-dir", folder / "run")
    assert outcome.code == 0, outcome.err
    return folder, outcome


def test_rows_of(own: Case) -> list[dict[str, str]]:
    with (own.data / "test.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


test_rows_of.__test__ = False  # type: ignore[attr-defined]


def logits_of(folder: Path, texts: list[str]) -> np.ndarray[Any, Any]:
    """By transformers alone, one text at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        return np.concatenate([model(**tokenizer(text, return_tensors="pt")).logits.numpy() for text in texts])


def test_the_students_tokens_are_those_of_its_training_texts(run: tuple[Path, Outcome], own: Case) -> None:
    folder, outcome = run
    kept = {*SPECIAL.values(), *FILLERS, "good", "bad", "rare0", "rare3"}
    for name in MODELS:
        tokenizer = AutoTokenizer.from_pretrained(folder / "run" / name)
        model = AutoModelForSequenceClassification.from_pretrained(folder / "run" / name)
        assert set(tokenizer.get_vocab()) == kept
        assert model.config.vocab_size == len(kept) == len(model.get_input_embeddings().weight)
        assert model.config.pad_token_id == tokenizer.pad_token_id == 0
    teacher = AutoModelForSequenceClassification.from_pretrained(folder / "run" / "teacher")
    assert teacher.config.vocab_size == len(VOCABULARY) + 6
    assert set(AutoTokenizer.from_pretrained(folder / "run" / "teacher").get_vocab()) == set(VOCABULARY)
    lines = [line for line in outcome.out.splitlines() if "vocabulary: " in line]
    assert len(lines) == 2  # in the check and when the student is made
    assert f"{len(VOCABULARY) + 6} -> {len(kept)} tokens, 100.00% of the corpus" in lines[1]
    chosen = [line for line in outcome.out.splitlines() if "layers kept, by their cka: [" in line]
    assert len(chosen) == 4  # in the check, for the student and for either control
    assert chosen[1] == chosen[3]  # those of the teacher that it starts from


def test_each_model_is_scored_as_transformers_alone_would(run: tuple[Path, Outcome], own: Case) -> None:
    folder, _ = run
    rows = test_rows_of(own)
    texts, truth = [row["words"] for row in rows], [LABELS.index(row["feeling"]) for row in rows]
    report = json.loads((folder / "run" / "report.json").read_text(encoding="utf-8"))
    scores = {row["name"]: row for row in report["rows"]}
    for name in ("teacher", *MODELS):
        logits = logits_of(folder / "run" / name, texts)
        assert scores[name]["metrics"]["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == truth))
        with np.load(folder / "run" / "results" / "outputs" / f"{name}.npz") as kept:
            assert kept["values"].tolist() == logits.argmax(1).tolist()
    assert scores["onnx"]["metrics"] == scores["student"]["metrics"]
    assert scores["student"]["parameters"] < scores["teacher"]["parameters"]
    assert scores["student"]["latency_ms"]["p50"] > 0


def test_the_graph_reads_what_the_student_reads(run: tuple[Path, Outcome], own: Case) -> None:
    folder, _ = run
    texts = [row["words"] for row in test_rows_of(own)]
    session = onnxruntime.InferenceSession(folder / "run" / "onnx" / "model.onnx")
    tokenizer = AutoTokenizer.from_pretrained(folder / "run" / "onnx")
    assert set(tokenizer.get_vocab()) < set(VOCABULARY)
    names = [each.name for each in session.get_inputs()]
    for text, expected in zip(texts[:10], logits_of(folder / "run" / "student", texts), strict=False):
        encoded = tokenizer(text, return_tensors="np")
        (logits,) = session.run(["logits"], {name: encoded[name].astype(np.int64) for name in names})
        np.testing.assert_allclose(logits[0], expected, atol=1e-4)


def test_the_stages_go_on_from_what_is_saved(run: tuple[Path, Outcome], own: Case, tmp_path: Path) -> None:
    folder, _ = run
    copy = tmp_path / "run"
    shutil.copytree(folder / "run", copy)
    before = Run(Recipe.load(folder / "tiny.yaml"), copy).folder.result("evaluate")["artefacts"]
    for name in MODELS[1:]:
        shutil.rmtree(copy / name)
    for stage in ("control", "evaluate"):
        run_stage(Run(Recipe.load(folder / "tiny.yaml"), copy, lambda line: None), stage)
    after = Run(Recipe.load(folder / "tiny.yaml"), copy).folder.result("evaluate")["artefacts"]
    assert {name: row["metrics"] for name, row in before.items()} == {n: row["metrics"] for n, row in after.items()}
    for name in MODELS[1:]:
        models = [AutoModelForSequenceClassification.from_pretrained(each / name) for each in (folder / "run", copy)]
        assert all(torch.equal(value, models[1].state_dict()[key]) for key, value in models[0].state_dict().items())


def test_a_student_that_was_interrupted_ends_as_if_it_had_not_been(
    run: tuple[Path, Outcome], own: Case, tmp_path: Path
) -> None:
    folder, _ = run
    copy = tmp_path / "run"
    shutil.copytree(folder / "run", copy)
    expected = load_file(copy / "student" / "model.safetensors")
    shutil.rmtree(copy / "student")
    shutil.rmtree(copy / "teacher_outputs")
    compute_loss = DistillationTrainer.compute_loss

    def interrupted(self: DistillationTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.model.training and self.state.global_step == 9:
            raise KeyboardInterrupt
        return compute_loss(self, *args, **kwargs)

    recipe = Recipe.load(folder / "tiny.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistillationTrainer, "compute_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_stage(Run(recipe, copy, lambda line: None), "distill")
    assert (copy / "checkpoints" / "student" / "checkpoint-6").is_dir()
    run_stage(Run(recipe, copy, lambda line: None), "distill")
    found = load_file(copy / "student" / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.fixture
def parts(own: Case, tmp_path: Path) -> tuple[Assembly, list[str]]:
    said: list[str] = []
    recipe = own.recipe(tmp_path, student={"num_layers": 2, "vocabulary": {"min_count": 60, "keep": ["unused5"]}})
    return Assembly(Recipe.load(recipe), said.append), said


def test_rare_tokens_are_dropped_and_some_are_kept_by_name(parts: tuple[Assembly, list[str]]) -> None:
    whole, said = parts
    teacher = whole.pretrained()
    student = whole.for_student(teacher, None)
    words = " ".join(whole.data.splits["train"]["text"]).split()
    kept = {word for word in words if words.count(word) >= 60} | {"a"}  # single letters stay
    assert 2 < len(kept) < 22
    assert set(student.tokenizer.get_vocab()) == {*SPECIAL.values(), "unused5", *kept}
    share = sum(word in kept for word in words) / len(words)
    assert f"{share:.2%} of the corpus" in said[-1]


def test_the_teacher_that_guides_gives_the_same_on_the_training_texts(own: Case, tmp_path: Path) -> None:
    whole = Assembly(Recipe.load(own.recipe(tmp_path, student={"num_layers": 2, "vocabulary": "task"})))
    teacher = whole.pretrained().eval()
    student = whole.for_student(teacher, None)
    assert student.whole is whole
    guide = student.trimmed(teacher)
    kept = kept_ids(teacher, whole.tokenizer, student.tokenizer)
    pairs = list(zip(whole.rows["train"]["input_ids"], student.rows["train"]["input_ids"], strict=True))
    assert all([kept[index] for index in after] == before for before, after in pairs)
    with torch.no_grad():
        for before, after in pairs[:20]:
            logits = [model(torch.tensor([ids])).logits for model, ids in ((teacher, before), (guide, after))]
            assert torch.equal(*logits)
    assert whole.trimmed(teacher) is teacher
    assert student.pretrained().config.vocab_size == len(kept)
    assert whole.pretrained().config.vocab_size == len(VOCABULARY) + 6
    with pytest.raises(ModelError, match="for_student"):
        whole.student(teacher)


def test_without_a_vocabulary_the_parts_are_the_same(own: Case, tmp_path: Path) -> None:
    whole = Assembly(Recipe.load(own.recipe(tmp_path)))
    assert whole.for_student(whole.pretrained(), None) is whole


def test_a_checkpoint_of_its_own_loses_the_same_tokens(own: Case, tmp_path: Path) -> None:
    student = {"model": str(own.model), "vocabulary": "task"}
    recipe = own.recipe(tmp_path, student=student, control="pretrained")
    outcome = command("check", recipe, "--output-dir", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert f"vocabulary: {len(VOCABULARY) + 6} -> " in outcome.out
    parts = Assembly(Recipe.load(tmp_path / "tiny.yaml"))
    made = parts.for_student(parts.pretrained(), None)
    model = made.student(made.trimmed(parts.pretrained()))
    assert model.config.vocab_size == len(made.tokenizer)
    assert model.config.num_hidden_layers == 4


def test_what_cannot_be_trimmed_is_said_in_the_check(own: Case, tmp_path: Path) -> None:
    for vocabulary, words in (({"max_size": 3}, "are always kept"), ({"keep": ["unusde5"]}, "Did you mean 'unused5'")):
        recipe = own.recipe(tmp_path, student={"num_layers": 2, "vocabulary": vocabulary})
        outcome = command("check", recipe, "--output-dir", tmp_path / "run")
        assert outcome.code == 1
        assert words in outcome.err
        assert not (tmp_path / "run").exists()


def test_a_student_trained_by_the_programs_has_its_vocabulary(own: Case, tmp_path: Path) -> None:
    import runpy
    import sys

    recipe = own.recipe(
        tmp_path,
        student={"num_layers": 1, "vocabulary": "task"},
        teacher__fine_tune={"max_steps": 60, **TRAINING},
        training={"max_steps": 3, **TRAINING},
        objectives={"logits_kl": {}},
    )
    for program in ("fine_tune", "distill"):
        path = Path(__file__).parents[2] / "trainers" / f"{program}.py"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [str(path), str(recipe), "--output-dir", str(tmp_path / "run")])
            runpy.run_path(str(path), run_name="__main__")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "student")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "student")
    assert model.config.vocab_size == len(tokenizer) == len(WORDS) + 1
