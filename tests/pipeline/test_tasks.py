"""A whole run of every task, and its scores once more by loops of their own: one row at a time, no padding."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml
from seqeval.metrics import f1_score
from tiny_run import FILLERS, RECIPE, TRAINING, Case, command
from transformers import AutoTokenizer

from distil_nlp.build import Assembly
from distil_nlp.recipe import Recipe

Row = dict[str, Any]
Predict = Callable[[Any, Any, Row], Any]


def sentence(dice: random.Random, *told: str) -> list[str]:
    words = dice.choices(FILLERS, k=dice.randint(4, 8))
    for word in told:
        words.insert(dice.randrange(len(words) + 1), word)
    return words


def number_row(dice: random.Random) -> Row:
    told = [dice.choice(("good", "bad", "bad", "film")) for _ in range(2)]
    return {
        "text": " ".join(sentence(dice, *told)),
        "label": told.count("good") - told.count("bad") + dice.gauss(0, 0.1),
    }


def several_row(dice: random.Random) -> Row:
    told = [word for word in ("good", "bad") if dice.random() < 0.5]
    return {
        "text": " ".join(sentence(dice, *told)),
        "label": [{"good": "praise", "bad": "blame"}[word] for word in told],
    }


def pair_row(dice: random.Random) -> Row:
    told = dice.choice(("good", "bad"))
    return {"text": " ".join(sentence(dice)), "other": " ".join(sentence(dice, told)), "label": told == "good"}


def tagged_row(dice: random.Random) -> Row:
    words = sentence(dice, "good", dice.choice(("bad", "good")))
    tags = ["O"] * len(words)
    for place, word in enumerate(words):
        if word in ("good", "bad"):
            tags[place] = {"good": "B-PRAISE", "bad": "B-BLAME"}[word]
            if place + 1 < len(words) and words[place + 1] not in ("good", "bad"):
                tags[place + 1] = tags[place].replace("B-", "I-")
    return {"tokens": words, "tags": tags}


def asked_row(dice: random.Random) -> Row:
    told = dice.choice(("good", "bad"))
    context = " ".join(sentence(dice, told))
    return {
        "question": "was it",
        "context": context,
        "answers": {"text": [told], "answer_start": [context.index(told)]},
    }


def logits_of(model: Any, tokenizer: Any, *texts: Any, **how: Any) -> Any:
    with torch.inference_mode():
        return model(**tokenizer(*texts, return_tensors="pt", **how))


def predict_number(model: Any, tokenizer: Any, row: Row) -> float:
    return float(logits_of(model, tokenizer, row["text"]).logits[0, 0])


def predict_several(model: Any, tokenizer: Any, row: Row) -> set[int]:
    odds = logits_of(model, tokenizer, row["text"]).logits[0].sigmoid()
    return {label for label, share in enumerate(odds.tolist()) if share > 0.5}


def predict_class(model: Any, tokenizer: Any, row: Row) -> int:
    return int(logits_of(model, tokenizer, row["text"], row["text_pair"]).logits[0].argmax())


def predict_tags(model: Any, tokenizer: Any, row: Row) -> list[str]:
    logits = logits_of(model, tokenizer, row["tokens"], is_split_into_words=True).logits[0]
    first: dict[int, int] = {}
    for place, word in enumerate(tokenizer(row["tokens"], is_split_into_words=True).word_ids()):
        if word is not None:
            first.setdefault(word, place)
    return [model.config.id2label[int(logits[first[word]].argmax())] for word in range(len(row["tokens"]))]


def predict_answer(model: Any, tokenizer: Any, row: Row) -> str:
    output = logits_of(model, tokenizer, row["question"], row["context"])
    encoded = tokenizer(row["question"], row["context"], return_offsets_mapping=True)
    places = [place for place, part in enumerate(encoded.sequence_ids()) if part == 1]
    spans = [(first, last) for first in places for last in places if first <= last < first + 4]
    first, last = max(spans, key=lambda span: output.start_logits[0, span[0]] + output.end_logits[0, span[1]])
    return row["context"][encoded["offset_mapping"][first][0] : encoded["offset_mapping"][last][1]]


def f1_of_sets(truth: list[set[int]], given: list[set[int]]) -> float:
    right = sum(len(a & b) for a, b in zip(truth, given, strict=True))
    return 2 * right / sum(len(a) + len(b) for a, b in zip(truth, given, strict=True))


TASKS: dict[str, dict[str, Any]] = {
    "regression": {
        "task": {"name": "text-classification", "problem": "regression"},
        "objectives": {"task_loss": {}, "logits_mse": {}, "hidden_states": {}},
        "row": number_row,
        "model": "AutoModelForSequenceClassification",
        "predict": predict_number,
        "truth": lambda row, names: row["label"],
        "metric": "pearson",
        "score": lambda truth, given: np.corrcoef(truth, given)[0, 1],
        "int8": "dynamic",
        "labels": [],
    },
    "multi_label": {
        "task": {"name": "text-classification", "problem": "multi_label"},
        "objectives": {"task_loss": {}, "logits_kl": {"temperature": 2.0}},
        "row": several_row,
        "model": "AutoModelForSequenceClassification",
        "predict": predict_several,
        "truth": lambda row, names: set(row["label"]),
        "metric": "f1_micro",
        "score": f1_of_sets,
        "labels": ["blame", "praise"],
    },
    "pairs": {
        "task": {"name": "text-classification", "text_pair": "other"},
        "objectives": {"task_loss": {}, "logits_kl": {}, "attentions": {}},
        "row": pair_row,
        "model": "AutoModelForSequenceClassification",
        "predict": predict_class,
        "truth": lambda row, names: row["label"],
        "metric": "accuracy",
        "score": lambda truth, given: np.mean(np.equal(truth, given)),
        "labels": ["false", "true"],
    },
    "token-classification": {
        "task": {"name": "token-classification"},
        "objectives": {"task_loss": {}, "logits_kl": {}, "hidden_states": {}},
        "row": tagged_row,
        "model": "AutoModelForTokenClassification",
        "predict": predict_tags,
        "truth": lambda row, names: [names[tag] for tag in row["tags"]],
        "metric": "entity_f1",
        "score": f1_score,
        "labels": ["B-BLAME", "B-PRAISE", "I-BLAME", "I-PRAISE", "O"],
    },
    "question-answering": {
        "task": {"name": "question-answering", "stride": 4, "max_answer_tokens": 4},
        "objectives": {"task_loss": {}, "logits_kl": {}, "hidden_states": {}},
        "row": asked_row,
        "model": "AutoModelForQuestionAnswering",
        "predict": predict_answer,
        "truth": lambda row, names: row["answers"]["text"][0],
        "metric": "exact_match",
        "score": lambda truth, given: np.mean([a == b for a, b in zip(truth, given, strict=True)]),
        "int8": "dynamic",
        "labels": [],
    },
}  # fmt: skip


@pytest.fixture(params=TASKS)
def run(request: pytest.FixtureRequest, case: Case, tmp_path: Path) -> tuple[dict[str, Any], Path]:
    told, dice = TASKS[request.param], random.Random(3)
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(told["row"](dice)) + "\n" for _ in range(260)), encoding="utf-8")
    recipe = copy.deepcopy(RECIPE) | {
        "task": {**told["task"], "dataset": str(data), "max_length": 24, "split": RECIPE["task"]["split"]},
        "teacher": {"model": str(case.model), "fine_tune": {**TRAINING, "max_steps": 60, "eval_strategy": "epoch"}},
        "objectives": told["objectives"],
        "training": {**TRAINING, "max_steps": 15},
        "control": ["same_start"],
        "export": {"backend": "native", "target": "avx2", "max_metric_drop": 1.0, "quantization": told.get("int8")},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    outcome = command("run", path, "--output-dir", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    return told, tmp_path


def test_a_run_of_each_task(run: tuple[dict[str, Any], Path]) -> None:
    told, folder = run
    figures = json.loads((folder / "run" / "report.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in figures["rows"]}
    assert list(rows) == [
        "teacher",
        "student",
        "control_same_start",
        "onnx",
        *(["onnx_int8"] if "int8" in told else []),
    ]
    assert figures["data"]["classes"] == told["labels"]
    assert (figures["data"]["majority_baseline"] is not None) == (told["metric"] == "accuracy")
    metric = told["metric"]
    test = Assembly(Recipe.load(folder / "tiny.yaml")).data.splits["test"]
    for name in ("teacher", "student"):
        model = getattr(transformers, told["model"]).from_pretrained(folder / "run" / name).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder / "run" / name)
        names = told["labels"]
        given = [told["predict"](model, tokenizer, row) for row in test]
        truth = [told["truth"](row, names) for row in test]
        assert rows[name]["metrics"][metric] == pytest.approx(told["score"](truth, given), abs=1e-5)
    assert rows["onnx"]["metrics"] == pytest.approx(rows["student"]["metrics"], abs=1e-4)
    for row in rows.values():
        assert all(value is not None and math.isfinite(value) for value in row["metrics"].values())
        interval = row["interval"]
        assert interval["low"] <= interval["value"] <= interval["high"]
        assert interval["value"] == pytest.approx(row["metrics"][figures["metric"]])
        assert row["name"].startswith("control") or row["latency_ms"]["p50"] > 0
    gain = figures["gain_over_control"]["control_same_start"]
    assert gain["difference"] == pytest.approx(gain["student"] - gain["control"])
    assert gain["words"] in figures["verdict"]
    terms = {curve["term"] for curve in figures["loss_curves"] if curve["run"] == "student"}
    assert terms == {"loss", *told["objectives"]}
    assert (folder / "run" / "report.html").is_file()
