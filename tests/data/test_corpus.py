"""What a task's rows are made of: a vocabulary trimmed to it cuts each of them into the same tokens."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset
from pydantic import TypeAdapter
from tiny_language import CHAT, MARKED_CHAT, decoder_tokenizer, texts
from tiny_models import tiny_model
from tiny_tokenizers import TRAINING_TEXTS, tiny_tokenizer
from transformers import PreTrainedTokenizerBase

from distil_nlp.data.tasks import TASKS
from distil_nlp.recipe.tasks import AnyTaskSection
from distil_nlp.students import trim_vocabulary

SENTENCES = [
    "The unbelievable director smiled: the film was good!",
    "nobody believed the longest, lowest and newest film",
    "très naïve café, 東京 🙂 far away ∞ — what? zzz qqq",
]
OTHERS = ["a longer sequel", "5,678 people in 2 hours", "hugging the widest pugs"]
TALK = [{"role": "user", "content": "what was the film like?"}, {"role": "assistant", "content": "surprisingly good"}]
ROWS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "text-classification": ({}, {"text": SENTENCES, "label": [0.0, 1.0, 0.0]}),
    "pairs": (
        {"name": "text-classification", "text_pair": "text_pair"},
        {"text": SENTENCES, "text_pair": OTHERS, "label": [0.0, 1.0, 0.0]},
    ),
    "token-classification": ({}, {"tokens": [text.split() for text in SENTENCES]}),
    "question-answering": ({"max_length": 24, "stride": 4}, {"question": OTHERS, "context": SENTENCES}),
    "fill-mask": ({}, {"text": SENTENCES}),
    "whole words": ({"name": "fill-mask", "whole_words": True, "pack": True}, {"text": SENTENCES}),
    "feature-extraction": ({"text_pair": "text_pair"}, {"text": SENTENCES, "text_pair": [*OTHERS[:2], None]}),
    "text2text-generation": ({"prefix": "the longing: "}, {"source": SENTENCES, "target": OTHERS}),
    "text-generation": ({}, {"text": [*SENTENCES, *texts(4)]}),
    "completions": (
        {"name": "text-generation", "prompt": "prompt", "completion": "completion"},
        {"prompt": ["the do", "a ca", "unbe"], "completion": ["g barks", "t purrs", "lievable"]},
    ),
    "separated": (
        {"name": "text-generation", "prompt": "prompt", "completion": "completion", "separator": " smiled "},
        {"prompt": OTHERS, "completion": SENTENCES},
    ),
    "conversations": ({"name": "text-generation", "messages": "messages"}, {"messages": [TALK, TALK[:2]]}),
}


def model_and_task(name: str, tokenizer: PreTrainedTokenizerBase) -> tuple[Any, Any]:
    settings = {"name": name, "dataset": "here", "max_length": 120, **ROWS[name][0]}
    if settings["name"] == "text-classification":
        settings["problem"] = "regression"
    task = TASKS[settings["name"]](TypeAdapter(AnyTaskSection).validate_python(settings))
    return tiny_model("bert", "masked", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id), task


def check(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    model, task = model_and_task(name, tokenizer)
    rows = Dataset.from_dict(ROWS[name][1])
    trimmed = trim_vocabulary(model, tokenizer, task.corpus(rows, tokenizer))
    assert len(trimmed.tokenizer) < len(tokenizer)
    whole, small = task.tokenize(rows, tokenizer), task.tokenize(rows, trimmed.tokenizer)
    assert whole.column_names == small.column_names
    assert len(whole) == len(small) > 0
    for column in whole.column_names:
        about_tokens = column == "input_ids" or (column == "labels" and "generation" in task.settings.name)
        for before, after in zip(whole[column], small[column], strict=True):
            assert [trimmed.kept[i] if i >= 0 else i for i in after] == before if about_tokens else after == before


KINDS = ("wordpiece", "byte_level_bpe", "unigram", "byte_fallback_bpe")
UNFIT = {
    ("whole words", "byte_fallback_bpe"),  # whose tokens go across words
}


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in ROWS for kind in KINDS if (name, kind) not in UNFIT]
)
def test_rows_are_cut_alike(name: str, kind: str) -> None:
    tokenizer = tiny_tokenizer(kind)
    tokenizer.chat_template = CHAT
    check(name, tokenizer)


@pytest.mark.parametrize("template", [CHAT, MARKED_CHAT])
@pytest.mark.parametrize("name", ["text-generation", "completions", "separated", "conversations"])
def test_rows_of_decoders_are_cut_alike(name: str, template: str) -> None:
    check(name, decoder_tokenizer(template))


def test_what_the_template_writes_counts() -> None:
    tokenizer = tiny_tokenizer("wordpiece")
    tokenizer.chat_template = CHAT.replace("<|start|>", f"{TRAINING_TEXTS[1]} ")
    model, task = model_and_task("conversations", tokenizer)
    rows = Dataset.from_dict(ROWS["conversations"][1])
    kept = trim_vocabulary(model, tokenizer, task.corpus(rows, tokenizer)).tokenizer.get_vocab()
    assert set(tokenizer.tokenize(TRAINING_TEXTS[1])) <= set(kept)
    bare = [said["content"] for said in TALK]
    assert not set(tokenizer.tokenize(TRAINING_TEXTS[1])) <= set(
        trim_vocabulary(model, tokenizer, bare).tokenizer.get_vocab()
    )
