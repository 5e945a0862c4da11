"""Large data: columns of tokens are counted without Python lists, and long texts are tokenized a few at a time."""

from __future__ import annotations

import json
import tracemalloc
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from tiny_language import decoder_tokenizer, texts
from tiny_tokenizers import tiny_tokenizer

from distil_nlp.data import batches, split, unlabelled
from distil_nlp.data.tasks import TASKS, Task
from distil_nlp.errors import DataError
from distil_nlp.recipe import Recipe

DECODER, WORDPIECE = decoder_tokenizer(), tiny_tokenizer("wordpiece")


def task_of(name: str, **settings: Any) -> Task:
    section = {"name": name, "dataset": "here", "max_length": 16, **settings}
    recipe = {"name": "here", "task": section, "teacher": {"model": "t"}, "student": {"num_layers": 1}}
    return TASKS[name](Recipe.model_validate(recipe).task)


def ragged(rows: int, longest: int) -> list[list[int]]:
    """Lists of ids of which a third is -100; some lists are empty."""
    random = np.random.default_rng(0)
    return [
        [int(each) if random.random() > 1 / 3 else -100 for each in random.integers(0, 50, random.integers(longest))]
        for _ in range(rows)
    ]


@pytest.mark.parametrize("chosen", [None, list(range(2100, 3, -7)), range(1, 1500)], ids=["all", "some", "a part"])
def test_lists_are_those_of_the_rows(chosen: Any) -> None:
    given = [None if row == 40 else ids for row, ids in enumerate(ragged(2200, 5))]
    rows = Dataset.from_dict({"ids": given}, features=Features({"ids": Sequence(Value("int64"))}))
    if chosen is not None:
        rows, given = rows.select(chosen), [given[row] for row in chosen]
    expected = [ids or [] for ids in given]
    found = list(batches.list_batches(rows, "ids"))
    assert len(found) == -(-len(given) // 1000)
    assert [ids.tolist() for batch in found for ids in batch.by_row()] == expected
    assert batches.list_counts(rows, "ids").tolist() == list(map(len, expected))
    even = [batch.where(batch.values % 2 == 0) for batch in found]
    assert [ids.tolist() for batch in even for ids in batch.by_row()] == [
        [id_ for id_ in ids if id_ % 2 == 0] for ids in expected
    ]


def test_no_rows_have_no_lists() -> None:
    rows = Dataset.from_dict({"ids": [[1]]}).select([])
    assert batches.list_counts(rows, "ids").tolist() == []
    assert list(batches.list_batches(rows, "ids")) == []


def test_what_a_decoder_predicts_is_all_labels_but_the_first() -> None:
    given, task = ragged(1100, 6), task_of("text-generation")
    rows = Dataset.from_dict({"labels": given})
    expected = [[id_ for id_ in labels[1:] if id_ != -100] for labels in given]
    assert [ids.tolist() for ids in task.targets(rows)] == expected
    assert task.references(rows, rows).tolist() == list(map(len, expected))


def peak_mb(work: Any) -> float:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("what", ["check", "references"])
def test_tokens_are_counted_in_little_memory(what: str) -> None:
    """A million tokens, which are 45 MB as lists of Python numbers."""
    task = task_of("text-generation")
    rows = Dataset.from_dict({"labels": np.random.default_rng(0).integers(1000, 2000, (4000, 250))})
    count = (lambda: task._check_targets(rows)) if what == "check" else (lambda: task.references(rows, rows))
    count()  # what is loaded only once
    assert peak_mb(count) < 8


# ---- long texts ----

LONG = [" ".join(texts(40)[row:]) for row in range(30)]
CASES: dict[str, tuple[Any, dict[str, Any], dict[str, list[Any]]]] = {
    "question-answering": (
        WORDPIECE,
        {"stride": 4},
        {
            "question": ["what"] * len(LONG),
            "context": LONG,
            "answers": [{"text": [text.split()[3]], "answer_start": [text.index(text.split()[3])]} for text in LONG],
        },
    ),
    "fill-mask": (WORDPIECE, {"whole_words": True}, {"text": LONG}),
    "text-generation": (DECODER, {}, {"text": LONG}),
    "feature-extraction": (WORDPIECE, {}, {"text": LONG}),
    "text-classification": (WORDPIECE, {}, {"text": LONG, "label": [0, 1] * 15}),
    "token-classification": (WORDPIECE, {}, {"tokens": [text.split() for text in LONG]}),
}


@pytest.mark.parametrize("name", CASES)
def test_long_texts_are_tokenized_a_few_at_a_time_to_the_same_end(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, settings, columns = CASES[name]
    rows, task, sizes = Dataset.from_dict(columns), task_of(name, **settings), list[int]()
    whole = task.tokenize(rows, tokenizer)

    class Recorded(Dataset):
        def map(self, *args: Any, **kwargs: Any) -> Any:
            sizes.append(kwargs["batch_size"])
            return super().map(*args, **kwargs)

    monkeypatch.setattr(batches, "BYTES", 5000)
    found = task.tokenize(Recorded(rows.data), tokenizer)
    assert sizes == [5000 * len(LONG) // rows.data.nbytes]
    assert 1 <= sizes[0] < 10
    assert found.features == whole.features
    assert found.to_dict() == whole.to_dict()


@pytest.mark.parametrize("cut", [None, 7])
@pytest.mark.parametrize("name", ["text-classification", "text2text-generation"])
def test_tokenizers_are_left_as_they_were(name: str, cut: int | None, tmp_path: Path) -> None:
    """What a tokenizer does last is saved with it: ``tokenizer.json`` would cut all texts as the task's targets."""
    tokenizer = tiny_tokenizer("wordpiece")
    if cut:
        tokenizer.backend_tokenizer.enable_truncation(cut, stride=1, strategy="only_first", direction="left")
        tokenizer.backend_tokenizer.enable_padding(direction="left", pad_token="[PAD]", length=9)
    tokenizer.save_pretrained(tmp_path / "before")
    longer = ["the film was good " * 20]
    given = {"text": longer, "label": [0]} if name == "text-classification" else {"source": longer, "target": longer}
    more = {} if name == "text-classification" else {"max_target_length": 5}
    rows = task_of(name, **more).tokenize(Dataset.from_dict(given), tokenizer)
    assert len(rows[0]["input_ids"]) == 16
    tokenizer.save_pretrained(tmp_path / "after")
    before, after = (json.loads((tmp_path / each / "tokenizer.json").read_text()) for each in ("before", "after"))
    assert after == before
    assert bool(before["truncation"]) == bool(cut)


def test_a_batch_has_two_megabytes_of_text_and_at_most_a_thousand_rows() -> None:
    def size(characters: int, rows: int = 20) -> int:
        return batches.batch_size(Dataset.from_dict({"text": ["x" * characters] * rows}))

    assert [size(10), size(1900), size(3_000_000, 2)] == [1000, 1000, 1]
    assert 15 <= size(100_000) <= 20
    assert 150 <= size(10_000) <= 200
    talk = Dataset.from_dict({"messages": [[{"role": "user", "content": "x" * 100_000}] * 2] * 10})
    assert 8 <= batches.batch_size(talk) <= 10
    assert batches.batch_size(Dataset.from_dict({"text": []})) == 1


# ---- keys ----


def content_key(*parts: str) -> bytes:
    """By a naive loop over characters."""
    kept = []
    for part in parts:
        folded = unicodedata.normalize("NFKC", part).casefold()
        kept.append("".join(sign for sign in folded if unicodedata.category(sign)[0] in "LMN") or folded)
    return split._sha1(kept)


def test_keys_of_all_characters_are_those_of_their_letters_marks_and_numbers() -> None:
    blocks = ["".join(map(chr, range(start, start + 64))) for start in range(0, 0x30000, 64)]
    assert [split.content_key(block) for block in blocks] == list(map(content_key, blocks))
    for parts in [("...", "It's"), ("", "?!"), ("½ ﬁ", "it s"), ()]:
        assert split.content_key(*parts) == content_key(*parts)


def test_a_characters_kind_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    category = unicodedata.category
    monkeypatch.setattr(unicodedata, "category", lambda sign: asked.append(sign) or category(sign))
    for _ in range(3):
        split.content_key("the dog, 12 times; \U00012345" * 50)
    assert len(asked) == len({*asked})


def test_a_text_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[tuple[str, ...]] = []
    monkeypatch.setattr(unlabelled, "content_key", lambda *given: hashed.append(given) or content_key(*given))
    rows = Dataset.from_dict({"text": ["a b", "c"]})
    known = unlabelled.known_keys(task_of("fill-mask"), rows)
    assert known == {content_key("a b"), content_key("c")}
    assert hashed == [("a b",), ("c",)]


# ---- several labels ----


def test_several_labels_are_ones_and_zeros_and_nan_where_they_are_not_known() -> None:
    task, count = task_of("text-classification", problem="multi_label"), 7
    lists = [sorted({row % count, row % 3}) if row % 5 else [] for row in range(1030)]
    feature = Sequence(ClassLabel(names=[f"c{label}" for label in range(count)]))
    columns = {"text": ["the dog"] * 1031, "label": [*lists, None]}
    rows = Dataset.from_dict(columns, features=Features({"text": Value("string"), "label": feature}))
    tokenized = task.tokenize(rows, WORDPIECE)
    expected = [[float(label in labels) for label in range(count)] for labels in lists]
    assert tokenized["labels"][:1030] == expected
    assert np.isnan(tokenized["labels"][1030]).all()
    known = tokenized.select(range(1029, -1, -1))
    found = task.references(known, known)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, np.array(expected[::-1]))
    with pytest.raises(DataError, match=r"1 of 1031 rows have none"):
        task.references(tokenized, rows)


def test_of_many_classes_the_one_chosen_is_kept() -> None:
    logits = np.random.default_rng(0).normal(size=(6, 1000)).astype(np.float32)
    for problem, items in [("single_label", 1), ("multi_label", 1000)]:
        task = task_of("text-classification", problem=problem)
        kept = task.keep({"logits": logits}, {})
        assert [each.size for each in kept] == [items] * 6
        assert [len(each) for each in kept] == [1] * 6
