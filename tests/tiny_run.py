"""A tiny real case: a checkpoint, a csv and a recipe; and the command line, called in this process."""

from __future__ import annotations

import contextlib
import copy
import csv
import io
import random
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, PreTrainedTokenizerFast

from distil_nlp import cli

FILLERS = [
    "the",
    "film",
    "plot",
    "scene",
    "actor",
    "music",
    "was",
    "very",
    "quite",
    "rather",
    "in",
    "of",
    "a",
    "and",
    "with",
    "for",
    "we",
    "saw",
    "it",
    "then",
]
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
WORDS = [*SPECIAL.values(), *FILLERS, "good", "bad"]
LABELS = ("negative", "positive")
TRAINING = {"learning_rate": 1.0e-3, "per_device_train_batch_size": 16, "logging_steps": 5, "disable_tqdm": True}
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "seed": 7,
    "task": {
        "name": "text-classification",
        "dataset": "",
        "text": "words",
        "label": "feeling",
        "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
        "max_length": 16,
        "metrics": ["accuracy", "f1"],
    },
    "teacher": {"model": "", "fine_tune": {"num_train_epochs": 6, **TRAINING}},
    "student": {"num_layers": 2},
    "objectives": {
        "task_loss": {"weight": 0.5},
        "logits_kl": {"weight": 0.5, "temperature": 2.0},
        "hidden_states": {"mapping": "uniform"},
        "attentions": {},
    },
    "training": {"max_steps": 12, **TRAINING},
    "control": ["pretrained", "same_start"],
    "evaluation": {"batch_size": 32, "bootstrap_samples": 200},
    "export": {"backend": "native", "target": "avx2", "max_metric_drop": 0.2},
    "bench": {"batch_sizes": [1], "sequence_length": 8, "repeats": 2, "threads": [1]},
}


class Outcome(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str


class Case(NamedTuple):
    """What a recipe can name."""

    folder: Path
    model: Path
    data: Path

    def recipe(self, folder: Path, **changes: Any) -> Path:
        """Writes the recipe with changes, each dot of a key written as two underscores."""
        values = copy.deepcopy(RECIPE)
        values["task"]["dataset"], values["teacher"]["model"] = str(self.data), str(self.model)
        for dotted, value in changes.items():
            *sections, key = dotted.split("__")
            section = values
            for name in sections:
                section = section[name]
            section[key] = value
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "tiny.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        return path


STAGES = ("teach", "distill", "control", "evaluate", "export", "bench", "report")


class Step(NamedTuple):
    """One micro-batch of training."""

    objectives: list[str]
    teacher: bool
    input_ids: list[list[int]]


class Finished(NamedTuple):
    """A run that went through, and every batch that it trained on, by model."""

    recipe: Path
    folder: Path
    outcome: Outcome
    steps: dict[str, list[Step]]

    def copy(self, folder: Path, *, without: Iterable[str] = ()) -> Path:
        """The run's folder once more, as if some stages had not finished."""
        shutil.copytree(self.folder, folder)
        for stage in without:
            (folder / "results" / f"{stage}.json").unlink()
        return folder


def command(*arguments: object) -> Outcome:
    """Calls the command line as its entry point does."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["distil-nlp", *map(str, arguments)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main()
            except SystemExit as stop:
                code = int(stop.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def build_tokenizer(words: list[str] = WORDS) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", words.index("[CLS]")), ("[SEP]", words.index("[SEP]"))],
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **SPECIAL)


def save_checkpoint(folder: Path, *, head: bool = False, seed: int = 0, **config: Any) -> Path:
    """A BERT with random weights: of a masked language model, or with a head of its own."""
    sizes = {
        "vocab_size": len(WORDS),
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 32,
        "initializer_range": 0.2,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kind = BertForSequenceClassification if head else BertForMaskedLM
        kind(BertConfig(**{**sizes, **config})).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def write_rows(path: Path, count: int = 300) -> Path:
    """Sentences whose feeling one word gives away, but for one in twelve that lies."""
    dice = random.Random(1)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["words", "feeling"])
        for row in range(count):
            words = dice.choices(FILLERS, k=dice.randint(4, 9))
            words.insert(dice.randrange(len(words)), ("bad", "good")[row % 2])
            writer.writerow([" ".join(words), LABELS[row % 2 if row % 12 else 1]])
    return path
