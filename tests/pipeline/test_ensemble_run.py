"""Whole runs whose student is taught by several models: of other labels, and of other seeds."""

from __future__ import annotations

import csv
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import FILLERS, LABELS, TRAINING, WORDS, Case, build_tokenizer, command, save_checkpoint
from transformers import AutoModelForSequenceClassification

from distil_nlp.build import Assembly, assembly
from distil_nlp.recipe import Recipe
from distil_nlp.run import distill, stages
from distil_nlp.run.folder import RunFolder
from distil_nlp.teachers import EnsembleTeacher, StoredTeacher
from distil_nlp.training import DistillationTrainer

FEELINGS = {"bad": "negative", "of": "neutral", "good": "positive"}
TERMS = {"task_loss": {"weight": 0.5}, "logits_kl": {"weight": 2.0}, "hidden_states": {"weight": 0.1}}
SHORT = {**TRAINING, "max_steps": 80}


def write_feelings(path: Path, *labels: str, count: int = 360) -> Path:
    """Sentences whose feeling one word gives away, but for one in twelve that lies."""
    dice, words = random.Random(3), [word for word, label in FEELINGS.items() if label in labels]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["words", "feeling"])
        for row in range(count):
            text = dice.choices([word for word in FILLERS if word not in FEELINGS], k=dice.randint(4, 9))
            word = words[row % len(words)]
            text.insert(dice.randrange(len(text)), word)
            writer.writerow([" ".join(text), FEELINGS[word] if row % 12 else labels[0]])
    return path


def taught_alone(case: Case, folder: Path, **changes: Any) -> Path:
    return case.recipe(folder, control=False, export=None, teacher__fine_tune=SHORT, **changes)


@pytest.fixture(scope="module")
def specialists(case: Case, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models, each of which knows two of three labels; the second has them in an order of its own."""
    folder, made = tmp_path_factory.mktemp("specialists"), []
    for name, labels in (("first", ("negative", "positive")), ("second", ("positive", "neutral"))):
        data = write_feelings(folder / f"{name}.csv", *labels)
        recipe = taught_alone(case, folder / name, task__dataset=str(data))
        outcome = command("teach", recipe, "--output-dir", folder / name / "run")
        assert outcome.code == 0, outcome.err
        made.append(folder / name / "run" / "teacher")
    model = AutoModelForSequenceClassification.from_pretrained(made[1])  # neutral, positive: turned around here
    model.classifier.weight.data, model.classifier.bias.data = (
        model.classifier.weight.flip(0),
        model.classifier.bias.flip(0),
    )
    model.config.id2label, model.config.label2id = {0: "Positive", 1: "Neutral"}, {"Positive": 0, "Neutral": 1}
    model.save_pretrained(made[1])
    return made


def of_specialists(case: Case, specialists: list[Path], folder: Path, **changes: Any) -> Path:
    data = write_feelings(folder.parent / f"{folder.name}.csv", *FEELINGS.values())
    ensemble = {"members": [{"model": str(specialists[1])}], "weights": [1, 2]}
    values = {
        "task__dataset": str(data),
        "task__metrics": ["accuracy", "f1_macro"],
        "teacher": {"model": str(specialists[0]), "ensemble": ensemble},
        "objectives": TERMS,
        "training": {**TRAINING, "max_steps": 100},
        "control": ["same_start"],
        "export": None,
    }
    return case.recipe(folder, **{**values, **changes})


def feelings(model: Any, text: str) -> dict[str, float]:
    """A model's probabilities by label, one text at a time and by none of the library's code."""
    with torch.no_grad():
        logits = model(**build_tokenizer()(text, return_tensors="pt")).logits[0].double()
    return {model.config.id2label[i].lower(): float(p) for i, p in enumerate(logits.softmax(-1))}


def merged(members: list[Any], weights: list[float], text: str) -> dict[str, float]:
    seen = [feelings(member, text) for member in members]
    mean = {}
    for label in FEELINGS.values():
        known = [(weight, p[label]) for weight, p in zip(weights, seen, strict=True) if label in p]
        mean[label] = sum(weight * p for weight, p in known) / sum(weight for weight, _ in known)
    return {label: p / sum(mean.values()) for label, p in mean.items()}


@pytest.fixture(scope="module")
def run(case: Case, specialists: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A whole run of two specialists, and the teacher's signals for each batch of the student's training."""
    folder, seen = tmp_path_factory.mktemp("ensemble"), []
    compute_loss = DistillationTrainer.compute_loss

    def watched(self: DistillationTrainer, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if model.training and self.teacher is not None:
            seen.append((inputs["input_ids"], self.teacher, self.teacher(inputs, self.needs[True][1])))
        return compute_loss(self, model, inputs, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistillationTrainer, "compute_loss", watched)
        outcome = command("run", of_specialists(case, specialists, folder), "--output-dir", folder / "run")
    assert outcome.code == 0, outcome.err
    assert "Teacher, ensemble of 2" in outcome.out
    return folder, seen


def rows_of(folder: Path) -> dict[str, Any]:
    return {row["name"]: row for row in json.loads((folder / "report.json").read_text("utf-8"))["rows"]}


def test_the_student_is_taught_the_mean_by_label_and_the_first_ones_features(
    run: tuple[Path, list[Any]], specialists: list[Path]
) -> None:
    _, seen = run
    members = [AutoModelForSequenceClassification.from_pretrained(folder).eval() for folder in specialists]
    ids, teacher, signals = seen[0]
    assert isinstance(teacher, EnsembleTeacher)
    assert signals.logits.shape == (len(ids), 3)
    for row, own in enumerate(ids):
        text = build_tokenizer().decode(own, skip_special_tokens=True)
        expected = list(merged(members, [1, 2], text).values())
        assert signals.logits[row].exp().tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    mask = (ids != 0).long()
    with torch.no_grad():
        states = members[0](ids, attention_mask=mask, output_hidden_states=True).hidden_states
    torch.testing.assert_close(signals.hidden_states[4][mask.bool()], states[4][mask.bool()], rtol=1e-4, atol=1e-5)


def test_the_report_has_a_line_for_the_ensemble_and_for_each_member(
    run: tuple[Path, list[Any]], specialists: list[Path]
) -> None:
    folder, _ = run
    rows = rows_of(folder / "run")
    assert list(rows) == ["teacher", "teacher_1", "teacher_2", "student", "control_same_start"]
    assert [rows[name]["kind"] for name in rows] == ["teacher"] * 3 + ["student", "control"]
    assert [row["label"] for row in rows.values()][:3] == ["Teacher, ensemble of 2", "Teacher 1", "Teacher 2"]
    members = [AutoModelForSequenceClassification.from_pretrained(each).eval() for each in specialists]
    right: dict[str, list[bool]] = {"teacher": [], "teacher_1": [], "teacher_2": []}
    test = Assembly(Recipe.load(folder / "tiny.yaml")).data.splits["test"]
    for row in test:
        label = test.features["label"].int2str(row["label"])
        answers = [merged(members, [1, 2], row["text"]), *(feelings(member, row["text"]) for member in members)]
        for name, answer in zip(right, answers, strict=True):
            right[name].append(max(answer, key=lambda each: answer[each]) == label)
    for name, hits in right.items():
        assert rows[name]["metrics"]["accuracy"] == pytest.approx(sum(hits) / len(hits)), name
    assert rows["teacher"]["retention"] == 1
    accuracies = [rows[name]["metrics"]["accuracy"] for name in ("student", "teacher")]
    assert rows["student"]["retention"] == pytest.approx(accuracies[0] / accuracies[1])
    for key in ("parameters", "size_mb"):
        assert rows["teacher"][key] == pytest.approx(rows["teacher_1"][key] + rows["teacher_2"][key])
    assert rows["teacher"]["latency_ms"]["p50"] > 0


def test_the_student_has_the_datas_labels_and_what_the_first_member_knew_of_them(
    run: tuple[Path, list[Any]], specialists: list[Path]
) -> None:
    folder, _ = run
    student = AutoModelForSequenceClassification.from_pretrained(folder / "run" / "student").eval()
    assert student.config.id2label == dict(enumerate(FEELINGS.values()))
    parts = Assembly(Recipe.load(folder / "tiny.yaml"))
    answers = [feelings(student, text) for text in parts.data.splits["test"]["text"]]
    assert any(max(answer, key=lambda each: answer[each]) == "neutral" for answer in answers)  # of the second
    first = AutoModelForSequenceClassification.from_pretrained(specialists[0])
    start: Any = parts.student(first)
    assert torch.equal(start.classifier.weight[[0, 2]], first.classifier.weight)
    assert not start.classifier.weight[1].any()
    assert torch.equal(start.bert.embeddings.word_embeddings.weight, first.bert.embeddings.word_embeddings.weight)


def test_the_first_member_in_8_bits_gives_the_student_exact_layers(
    case: Case, specialists: list[Path], tmp_path: Path
) -> None:
    pytest.importorskip("torchao", reason="torchao, which quantizes teachers, is not installed")
    ensemble = {"members": [{"model": str(specialists[1])}]}
    teacher = {"model": str(specialists[0]), "quantization": "int8", "ensemble": ensemble}
    recipe = of_specialists(
        case, specialists, tmp_path / "recipe", teacher=teacher, control=[], training={**TRAINING, "max_steps": 2}
    )
    outcome = command("run", recipe, "--output-dir", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    rows = rows_of(tmp_path / "run")
    assert rows["teacher_1"]["size_mb"] < 0.8 * rows["teacher_2"]["size_mb"]
    assert same(tmp_path / "run" / "teacher_1", specialists[0])


def test_members_that_do_not_go_together_are_refused_by_the_check(
    case: Case, specialists: list[Path], tmp_path: Path
) -> None:
    other = save_checkpoint(tmp_path / "other", head=True, num_labels=2)
    build_tokenizer([*WORDS[:-2], "bad", "good"]).save_pretrained(other)
    first, second = ({"model": str(folder)} for folder in specialists)
    unnamed = {"model": str(save_checkpoint(tmp_path / "unnamed", head=True, num_labels=3))}
    for number, (members, changes, words) in enumerate(
        [
            ([{"model": str(other)}], {}, ["the other member of the ensemble have different tokenizers", "'bad'"]),
            ([unnamed], {}, ["matched by name", "have no names"]),
            ([second], {"average": "logits"}, ["average='probabilities'"]),
            ([{**first, "dtype": "bfloat16"}], {}, ["Nobody knows neutral"]),
            ([second, {"seed": 1, "model": str(case.model), "fine_tune": {}}], {"weights": [1, 1]}, ["3 members"]),
        ]
    ):
        teacher = {**first, "ensemble": {"members": members, **changes}}
        outcome = command("check", of_specialists(case, specialists, tmp_path / str(number), teacher=teacher))
        assert outcome.code == 1
        assert "Traceback" not in outcome.err
        for word in words:
            assert word in outcome.err


@pytest.fixture(scope="module")
def alone(case: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Teachers of runs without an ensemble, by seed."""
    folder = tmp_path_factory.mktemp("alone")
    for seed in (7, 1):
        recipe = taught_alone(case, folder / str(seed), seed=seed)
        assert command("teach", recipe, "--output-dir", folder / str(seed) / "run").code == 0
    return {seed: folder / str(seed) / "run" / "teacher" for seed in (7, 1)}


def test_a_weak_member_is_named(case: Case, alone: dict[int, Path], tmp_path: Path) -> None:
    known = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    weak = save_checkpoint(tmp_path / "weak", head=True, initializer_range=1e-6, **known)
    teacher = {"model": str(alone[7]), "ensemble": {"members": [{"model": str(weak)}]}}
    outcome = command("check", case.recipe(tmp_path, teacher=teacher, control=False, export=None))
    assert outcome.code == 1
    assert "must know the task before it can teach it (teacher_2)" in outcome.err


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(left: Path, right: Path) -> bool:
    ours, theirs = weights(left), weights(right)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_one_checkpoint_under_two_seeds_goes_on_where_it_was(
    case: Case, alone: dict[int, Path], tmp_path: Path
) -> None:
    """Members are the teachers of runs under their seeds; what is trained is not trained again."""
    ensemble = {"members": [{"seed": 1}], "by_confidence": "entropy"}
    teacher = {"model": str(case.model), "fine_tune": SHORT, "ensemble": ensemble, "store": {"budget_mb": 50}}
    recipe = case.recipe(tmp_path, teacher=teacher, control=False, export=None)
    run, trained = tmp_path / "run", []
    train, compute_loss = distill.train, DistillationTrainer.compute_loss
    with pytest.MonkeyPatch.context() as patch:

        def interrupted(self: DistillationTrainer, *args: Any, **kwargs: Any) -> Any:
            if "teacher_2" in str(self.args.output_dir) and self.state.global_step == 9:
                raise KeyboardInterrupt
            return compute_loss(self, *args, **kwargs)

        patch.setattr(DistillationTrainer, "compute_loss", interrupted)
        assert command("run", recipe, "--output-dir", run).code == 130
    assert same(run / "teacher_1", alone[7])
    with pytest.MonkeyPatch.context() as patch:
        for module in (stages, distill):
            patch.setattr(
                module, "train", lambda run, name, *a, **kw: trained.append(name) or train(run, name, *a, **kw)
            )
        seen: list[Any] = []
        made = assembly.make_stored
        patch.setattr(assembly, "make_stored", lambda *a: seen.append(made(*a)) or seen[-1])
        outcome = command("run", recipe, "--output-dir", run, "--resume")
    assert outcome.code == 0, outcome.err
    assert trained == ["teacher_2", "student"]
    assert not same(run / "teacher_1", run / "teacher_2")
    [stored] = seen
    assert isinstance(stored, StoredTeacher)
    assert list((run / "teacher_outputs").glob("*/shard-*"))
    report = json.loads((run / "report.json").read_text("utf-8"))
    assert {curve["run"] for curve in report["loss_curves"]} == {"teacher_1", "teacher_2", "student"}
    assert {path.name for path in (run / "results").glob("teach*")} == {"teach.json"}
    assert same(run / "teacher_2", alone[1])


def test_what_changes_of_an_ensemble_keeps_its_members_or_sets_them_aside(
    case: Case, run: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    shutil.copytree(run[0] / "run", tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    folder.describe(Recipe.load(run[0] / "run" / "recipe.yaml", ["teacher.ensemble.weights=[1, 1]"]))
    assert folder.has("teach")
    assert not folder.has("distill")
    assert (tmp_path / "run" / "teacher_2" / "config.json").is_file()
    folder.describe(Recipe.load(run[0] / "run" / "recipe.yaml", [f"teacher.model={case.model}"]))
    assert not folder.has("teach")
    assert not (tmp_path / "run" / "teacher_2").exists()
    assert (tmp_path / "run" / "teacher_2.outdated").is_dir()
