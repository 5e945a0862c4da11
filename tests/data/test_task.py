"""Text classification: tokenized rows, batches, predictions and scores."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from distil_nlp.data.task import TASKS
from distil_nlp.errors import RecipeError

TASK = TASKS["text-classification"]
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
    rows = TASK.tokenize(make_rows(), make_tokenizer(), 5)
    assert set(rows.column_names) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    assert rows["input_ids"][:] == [[2, 4, 3], [2, 5, 6, 7, 3], [2, 9, 10, 3]]
    assert rows["labels"][:] == [0, 1, 1]
    pairs = TASK.tokenize(make_rows(pairs=True), make_tokenizer(), 16)
    assert pairs["input_ids"][0] == [2, 4, 3, 11, 12, 3]
    assert pairs["token_type_ids"][0] == [0, 0, 0, 1, 1, 1]


def test_batches_are_padded_to_their_longest_row() -> None:
    tokenizer = make_tokenizer()
    rows = TASK.tokenize(make_rows(), tokenizer, 16)
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
    }


def test_predictions_and_row_scores() -> None:
    logits = np.array([[0.1, 2.0, -1.0], [3.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    predictions = TASK.predictions(logits)
    assert predictions.tolist() == [1, 0, 2]
    scores = TASK.row_scores(predictions, [1, 1, 2])
    assert scores.dtype == np.float64
    assert scores.tolist() == [1.0, 0.0, 1.0]


# A whole use of it; what it prints names the files that datasets caches.
TOKENIZE = """
import sys, datasets
from transformers import AutoTokenizer
from distil_nlp.data.task import TASKS
task, tokenizer = TASKS["text-classification"], AutoTokenizer.from_pretrained(sys.argv[1])
rows = datasets.load_dataset("parquet", data_files=sys.argv[2], split="train")
tokenized = task.tokenize(rows, tokenizer, 8)
task.collator(tokenizer)([tokenized[0], tokenized[1]])
for length in (8, 8, 6):
    print(task.tokenize(rows, tokenizer, length)._fingerprint)
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
    one = TASK.tokenize(make_rows(), make_tokenizer(), 16)
    other = TASK.tokenize(make_rows(), AutoTokenizer.from_pretrained(tmp_path), 16)
    assert one["input_ids"][:] == other["input_ids"][:]
