"""Text classification: tokenized rows, batches, predictions and scores."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from distil_nlp.data.batches import Lists
from distil_nlp.data.read import RawData
from distil_nlp.data.tasks import TASKS, TextClassification
from distil_nlp.errors import DataError, ModelError, RecipeError
from distil_nlp.evaluation.metrics import compute_metrics
from distil_nlp.recipe.tasks import TextClassificationSection


def make_task(max_length: int = 16, **settings: object) -> TextClassification:
    values = {"name": "text-classification", "dataset": "here", "max_length": max_length, **settings}
    return TextClassification(TextClassificationSection.model_validate(values))


TASK = make_task()
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(30))]


def make_tokenizer(words: list[str] = WORDS) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def make_rows(*, pairs: bool = False) -> Dataset:
    columns = {"text": ["w0", "w1 w2 w3 w4", "w5 w6"], "label": [0, 1, 1]}
    features = {"text": Value("string"), "label": ClassLabel(names=["bad", "good"])}
    if pairs:
        columns["text_pair"], features["text_pair"] = ["w7 w8", "w9", "w10"], Value("string")
    return Dataset.from_dict(columns, features=Features(features))


def test_an_unknown_task_names_the_near_match() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'text-classification'"):
        TASKS["text-clasification"]


def test_tokenized_rows() -> None:
    rows = make_task(5).tokenize(make_rows(), make_tokenizer())
    assert set(rows.column_names) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    assert rows["input_ids"][:] == [[2, 4, 3], [2, 5, 6, 7, 3], [2, 9, 10, 3]]
    assert rows["labels"][:] == [0, 1, 1]
    pairs = TASK.tokenize(make_rows(pairs=True), make_tokenizer())
    assert pairs["input_ids"][0] == [2, 4, 3, 11, 12, 3]
    assert pairs["token_type_ids"][0] == [0, 0, 0, 1, 1, 1]


def test_batches_are_padded_to_their_longest_row() -> None:
    tokenizer = make_tokenizer()
    rows = TASK.tokenize(make_rows(), tokenizer)
    batch = TASK.collator(tokenizer)([rows[0], rows[2]])
    assert batch["input_ids"].tolist() == [[2, 4, 3, 0], [2, 9, 10, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [0, 1]


def test_the_model_is_told_the_names() -> None:
    names = TASK.label_names(make_rows())
    assert names == ["bad", "good"]
    assert TASK.model_kwargs(names) == {
        "num_labels": 2,
        "id2label": {0: "bad", 1: "good"},
        "label2id": {"bad": 0, "good": 1},
        "problem_type": "single_label_classification",
    }


def test_predictions_and_references() -> None:
    logits = np.array([[0.1, 2.0, -1.0], [3.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    kept = TASK.keep({"logits": logits}, {})
    outputs = Lists(np.concatenate(kept), np.array([len(each) for each in kept]))
    rows = Dataset.from_dict({"labels": [1, 1, 2]})
    assert outputs.counts.tolist() == [1, 1, 1]
    assert TASK.predictions(outputs, rows, rows).tolist() == [1, 0, 2]
    assert TASK.references(rows, rows).tolist() == [1, 1, 2]


def test_a_teacher_must_beat_the_commonest_label() -> None:
    rows = Dataset.from_dict({"labels": [0, 0, 0, 1]})
    always_zero = Lists(np.array([[1.0, 0.0]] * 4), np.ones(4, dtype=int))
    right = Lists(np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0]]), np.ones(4, dtype=int))
    assert "right in 0.750; always giving the commonest label would be right in 0.750" in TASK.weakness(
        always_zero, rows
    )
    assert TASK.weakness(right, rows) is None


def test_a_teacher_of_rare_classes_may_be_right_less_often() -> None:
    labels = np.repeat([0, 1], [190, 10])
    finds = np.concatenate([np.repeat([0, 1], [180, 10]), np.ones(10, dtype=int)])  # all of them, and as many others
    guesses = np.roll(labels, 50)
    for given, weak in [(finds, False), (guesses, True), (1 - finds, True)]:
        said = TASK.weakness(Lists(np.eye(2)[given], np.ones(200, dtype=int)), Dataset.from_dict({"labels": labels}))
        assert (said is not None) == weak
    assert (finds == labels).mean() == 0.95  # which always giving the commonest label has, too


# A whole use of it; what it prints names the files that datasets caches.
TOKENIZE = """
import sys, datasets
from transformers import AutoTokenizer
from distil_nlp.data.tasks import TextClassification
from distil_nlp.recipe.tasks import TextClassificationSection
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
def task_of(length):
    values = {"name": "text-classification", "dataset": "here", "max_length": length}
    return TextClassification(TextClassificationSection.model_validate(values))
rows = datasets.load_dataset("parquet", data_files=sys.argv[2], split="train")
tokenized = task_of(8).tokenize(rows, tokenizer)
task_of(8).collator(tokenizer)([tokenized[0], tokenized[1]])
for length in (8, 8, 6):
    print(task_of(length).tokenize(rows, tokenizer)._fingerprint)
"""


def test_tokenization_is_cached_between_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    make_rows().to_parquet(str(tmp_path / "rows.parquet"))
    arguments = [str(tmp_path / "tokenizer"), str(tmp_path / "rows.parquet")]
    other = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TOKENIZE, *arguments],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    monkeypatch.setattr(sys, "argv", ["-c", *arguments])
    exec(TOKENIZE, {})
    here = capsys.readouterr().out.split()
    assert other.stdout.split() == here
    assert here[0] == here[1] != here[2]


def test_a_saved_tokenizer_gives_the_same_rows(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    one = TASK.tokenize(make_rows(), make_tokenizer())
    other = TASK.tokenize(make_rows(), AutoTokenizer.from_pretrained(tmp_path))
    assert one["input_ids"][:] == other["input_ids"][:]


def clean(task: TextClassification, **splits: dict[str, list[Any]]) -> tuple[dict[str, Dataset], dict[str, int]]:
    dropped: Counter[str] = Counter()
    raw = RawData({name: Dataset.from_dict(columns) for name, columns in splits.items()})
    return task.clean(raw, dropped), dict(dropped)


SEVERAL = {"text": ["w0", "w1 w2", "w3", "w4"], "label": [["b", "a"], [], ["c"], None]}
NUMBERS = {"text": ["w0", "w1 w2", "w3", "w4"], "label": ["1.5", "-2", "0", None]}


def test_any_number_of_labels_become_ones_and_zeros() -> None:
    task = make_task(problem="multi_label")
    splits, dropped = clean(task, train=SEVERAL)
    rows = splits["train"]
    assert dropped == {"no label": 1}
    assert task.label_names(rows) == ["a", "b", "c"]
    assert task.seen_labels(rows) == {0, 1, 2}
    assert task.majority(rows) is None
    tokenizer = make_tokenizer()
    tokenized = task.tokenize(rows, tokenizer)
    assert tokenized["labels"][:] == [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    batch = task.collator(tokenizer)([tokenized[i] for i in range(3)])
    assert batch["labels"].dtype == torch.float32
    assert task.references(tokenized, rows).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    outputs = Lists(np.array([[0.1, 2.0, -1.0], [-0.1, 0.0, 0.0], [5.0, -5.0, 1.0]]), np.ones(3, dtype=int))
    assert task.predictions(outputs, tokenized, rows).tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 1]]


def test_the_model_is_told_the_problem() -> None:
    assert make_task(problem="multi_label").model_kwargs(["a", "b"])["problem_type"] == "multi_label_classification"
    assert make_task(problem="regression").model_kwargs(None) == {"num_labels": 1, "problem_type": "regression"}


def test_ones_and_zeros_are_not_taken_for_labels() -> None:
    with pytest.raises(DataError, match=r"(?s)Row 2 of train has \[0, 1, 1\].*rather than a 0 or 1"):
        clean(make_task(problem="multi_label"), train={"text": ["w0", "w1"], "label": [[1, 0], [0, 1, 1]]})


def test_the_loss_of_each_problem_is_transformers_own() -> None:
    """Through tokenization, collation and a model: binary cross-entropy of all labels, or the squared error."""
    tokenizer = make_tokenizer()
    config = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    for problem, columns, loss in [
        ("multi_label", SEVERAL, torch.nn.functional.binary_cross_entropy_with_logits),
        ("regression", NUMBERS, torch.nn.functional.mse_loss),
    ]:
        task = make_task(problem=problem)
        rows = clean(task, train=columns)[0]["train"]
        arguments = task.model_kwargs(task.label_names(rows))
        model = BertForSequenceClassification(BertConfig(**config, intermediate_size=16, **arguments)).eval()
        tokenized = task.tokenize(rows, tokenizer)
        batch = task.collator(tokenizer)([tokenized[i] for i in range(3)])
        found, expected = model(**batch), np.array(tokenized["labels"][:], dtype=np.float32)
        logits = found.logits if problem == "multi_label" else found.logits[:, 0]
        torch.testing.assert_close(found.loss, loss(logits, torch.from_numpy(expected)))


def test_numbers() -> None:
    task = make_task(problem="regression")
    splits, dropped = clean(task, train=NUMBERS)
    rows = splits["train"]
    assert (rows["label"][:], dropped) == ([1.5, -2.0, 0.0], {"no label": 1})
    assert (task.label_names(rows), task.seen_labels(rows), task.majority(rows)) == (None, set(), None)
    tokenized = task.tokenize(rows, make_tokenizer())
    assert task.references(tokenized, rows).tolist() == [1.5, -2.0, 0.0]
    outputs = Lists(np.array([[0.5], [1.5], [-1.0]], dtype=np.float32), np.ones(3, dtype=int))
    assert task.predictions(outputs, tokenized, rows).tolist() == [0.5, 1.5, -1.0]


def test_a_secret_test_split_of_numbers_is_left_out() -> None:
    """As that of STS-B on the Hub: -1 everywhere."""
    secret = {"text": ["w0", "w1"], "label": [-1.0, -1.0]}
    train = {"text": ["w0", "w1"], "label": [-1.0, 5.0]}
    task = make_task(problem="regression")
    assert set(clean(task, train=train, validation=train, test=secret)[0]) == {"train", "validation"}


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_metrics_and_objectives_suit_the_problem(problem: str) -> None:
    task = make_task(problem=problem)
    compute_metrics(task.metrics, takes=task.predicts, label_names=["a", "b", "c"])
    terms = set(task.default_objectives)
    assert terms == {"task_loss", "logits_mse" if problem == "regression" else "logits_kl"}


def test_a_teacher_of_numbers_must_beat_their_mean() -> None:
    task, rows = make_task(problem="regression"), Dataset.from_dict({"labels": [1.0, 2.0, 6.0]})
    for given, weak in [([3.0, 3.0, 3.0], True), ([1.5, 2.5, 5.0], False), ([9.0, 0.0, 1.0], True)]:
        said = task.weakness(Lists(np.array(given)[:, None], np.ones(3, dtype=int)), rows)
        assert (said is not None) == weak
    error, spread = ((9 - 1) ** 2 + 2**2 + 5**2) / 3, np.var([1, 2, 6])
    assert f"error is {error:.4g}; always giving their mean would have {spread:.4g}." in said


def test_a_teacher_of_labels_must_beat_the_best_answer_for_all() -> None:
    right = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 1], [0, 0, 0]])
    rows = Dataset.from_dict({"labels": right.astype(float).tolist()})
    task = make_task(problem="multi_label")

    def weak(given: np.ndarray) -> bool:
        outputs = Lists(np.where(given, 1.0, -1.0), np.ones(4, dtype=int))
        return task.weakness(outputs, rows) is not None

    def f1(given: np.ndarray) -> float:
        return 2 * (given * right).sum() / (given + right).sum()

    constant = [np.tile(each, (4, 1)) for each in itertools.product([0, 1], repeat=3) if any(each)]
    best = max(constant, key=f1)
    assert all(weak(each) for each in [*constant, np.zeros((4, 3), int)])
    assert f"would have {f1(best):.3f}" in task.weakness(Lists(np.where(best, 1.0, -1.0), np.ones(4, dtype=int)), rows)
    assert not weak(right)
    better = best.copy()
    better[3] = 0
    assert not weak(better)


def test_a_given_teacher_is_told_the_problem() -> None:
    several = BertConfig(id2label={0: "A", 1: "b"}, label2id={"A": 0, "b": 1})
    make_task(problem="multi_label").fit_teacher(SimpleNamespace(config=several), ["a", "b"])
    assert several.problem_type == "multi_label_classification"
    number = BertConfig(num_labels=1)
    make_task(problem="regression").fit_teacher(SimpleNamespace(config=number), None)
    assert number.problem_type == "regression"
    unsaid = BertConfig(id2label={0: "A", 1: "b"}, label2id={"A": 0, "b": 1})
    with pytest.raises(ModelError, match="has 2 outputs"):
        make_task(problem="regression").fit_teacher(SimpleNamespace(config=unsaid), None)
    with pytest.raises(ModelError, match="do not agree"):
        make_task().fit_teacher(SimpleNamespace(config=unsaid), ["a", "c"])
    assert unsaid.problem_type is None
