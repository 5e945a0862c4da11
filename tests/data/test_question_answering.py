"""Question answering: windows, their labels, and the answers made of a model's outputs, against plain loops."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from tiny_run import build_tokenizer
from transformers import PreTrainedTokenizerFast

from distil_nlp.data.batches import Lists
from distil_nlp.data.load import load_task_data
from distil_nlp.data.read import RawData
from distil_nlp.data.tasks import QuestionAnswering
from distil_nlp.data.tasks.question_answering import best_span
from distil_nlp.errors import DataError
from distil_nlp.recipe.tasks import QuestionAnsweringSection

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "##s", "##ed", "?", *(f"w{i}" for i in range(10)), *"abcdefghij"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(WORDS)


def make_task(**settings: object) -> QuestionAnswering:
    values = {"name": "question-answering", "dataset": "here", "max_length": 20, "stride": 5, **settings}
    return QuestionAnswering(QuestionAnsweringSection.model_validate(values))


def clean(task: QuestionAnswering, rows: list[dict[str, Any]]) -> tuple[Dataset, dict[str, int]]:
    dropped: Counter[str] = Counter()
    return task.clean(RawData({"train": Dataset.from_list(rows)}), dropped)["train"], dict(dropped)


def answers_of(context: str, *texts: str) -> dict[str, Any]:
    return {"text": list(texts), "answer_start": [context.index(text) for text in texts]}


def random_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Contexts of 1 to 60 words apart by one space or two, and an answer of whole words."""
    dice, rows = random.Random(seed), []
    for _ in range(count):
        words = [dice.choice("abcdefghij") + dice.choice(["", "s", "ed"]) for _ in range(dice.randint(1, 60))]
        places, context = [], ""
        for word in words:
            context += dice.choice([" ", "  "]) if context else ""
            places.append((len(context), len(context) + len(word)))
            context += word
        first = dice.randrange(len(words))
        last = min(len(words) - 1, first + dice.randrange(4))
        text = context[places[first][0] : places[last][1]]
        answers = {"text": [text], "answer_start": [places[first][0]]}
        question = " ".join(dice.choices(WORDS[7:17], k=dice.randint(1, 5))) + "?"
        rows.append({"question": question, "context": context, "answers": answers})
    return rows


def test_windows_hold_the_question_and_overlapping_parts_of_the_context(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = random_rows(40)
    tokenized = make_task().tokenize(clean(make_task(), rows)[0], tokenizer)
    assert len(tokenized) > len(rows)
    seen: dict[int, list[list[int]]] = {}
    for window in tokenized:
        row, length = rows[window["example"]], window["context_length"]
        assert len(window["input_ids"]) <= 20
        start = window["context_start"]
        question = tokenizer(row["question"], add_special_tokens=False)["input_ids"]
        assert window["input_ids"][:start] == [2, *question, 3]
        assert window["input_ids"][start + length :] == [3]
        assert length == len(window["offsets"])
        for token, (first, last) in zip(window["input_ids"][start : start + length], window["offsets"], strict=True):
            assert row["context"][first:last] == tokenizer.convert_ids_to_tokens(token).removeprefix("##")
        seen.setdefault(window["example"], []).append(window["offsets"])
    for number, row in enumerate(rows):
        whole = tokenizer(row["context"], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        joined = seen[number][0]
        for earlier, later in zip(seen[number], seen[number][1:], strict=False):
            assert earlier[-5:] == later[:5]
            joined = joined + later[5:]
        assert list(map(tuple, joined)) == whole


def test_labels_are_the_answer_or_else_no_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = random_rows(60, seed=1)
    tokenized = make_task().tokenize(clean(make_task(), rows)[0], tokenizer)
    found, without = Counter[int](), 0
    for window in tokenized:
        row = rows[window["example"]]
        text, start = row["answers"]["text"][0], row["answers"]["answer_start"][0]
        inside = window["offsets"][0][0] <= start and start + len(text) <= window["offsets"][-1][1]
        if not inside:
            assert window["start_positions"] == window["end_positions"] == window["null_position"] == 0
            without += 1
            continue
        first, last = (window[name] - window["context_start"] for name in ("start_positions", "end_positions"))
        assert (window["offsets"][first][0], window["offsets"][last][1]) == (start, start + len(text))
        found[window["example"]] += 1
    assert without > 20
    assert len(found) > 50


def test_an_answer_within_a_token_is_that_token(tokenizer: PreTrainedTokenizerFast) -> None:
    context = "a w3 b"
    rows = [{"question": "w1?", "context": context, "answers": {"text": ["3"], "answer_start": [3]}}]
    rows.append({"question": "w1?", "context": "as bs", "answers": {"text": ["s"], "answer_start": [1]}})
    for window in make_task().tokenize(clean(make_task(), rows)[0], tokenizer):  # the second is a token of its own
        assert window["start_positions"] == window["end_positions"] == window["context_start"] + 1


@pytest.mark.parametrize(("max_length", "stride"), [(16, 0), (16, 8), (20, 10), (32, 16)])
def test_long_questions_leave_room(tokenizer: PreTrainedTokenizerFast, max_length: int, stride: int) -> None:
    rows = [
        {
            "question": " ".join(["w1"] * count),
            "context": "a bs ced " * 9,
            "answers": {"text": ["a"], "answer_start": [0]},
        }
        for count in range(1, 40)
    ]
    task = make_task(max_length=max_length, stride=stride)
    tokenized = task.tokenize(clean(task, rows)[0], tokenizer)
    assert set(tokenized["example"][:]) == set(range(39))
    assert max(map(len, tokenized["input_ids"][:])) == max_length
    questions = max(tokenized["context_start"][:]) - 2
    assert min(length for length in tokenized["context_length"][:] if length > stride) >= stride + 1
    assert questions <= (max_length - stride) // 2


def padded(tokenizer: PreTrainedTokenizerFast, task: QuestionAnswering, rows: Dataset) -> dict[str, np.ndarray]:
    batch = task.collator(tokenizer, train=False)([rows[i] for i in range(len(rows))])
    return {name: np.asarray(value) for name, value in batch.items()}


@pytest.mark.parametrize("side", ["right", "left"])
def test_what_is_kept_are_the_logits_at_no_answer_and_at_the_context(side: str) -> None:
    tokenizer, task = build_tokenizer(WORDS), make_task()
    tokenizer.padding_side = side
    rows = task.tokenize(clean(task, random_rows(12, seed=2))[0], tokenizer)
    batch = padded(tokenizer, task, rows)
    ids = batch["input_ids"]
    outputs = {"start_logits": ids * 1.0, "end_logits": ids + 0.5}  # so that each says at which token it is
    kept = task.keep(outputs, batch)
    assert len({len(row) for row in rows["input_ids"]}) > 1
    for row, values in zip(rows, kept, strict=True):
        context = row["input_ids"][row["context_start"] :][: row["context_length"]]
        assert values[:, 0].tolist() == [2, *context]
        assert values[:, 1].tolist() == [2.5, *(token + 0.5 for token in context)]
    assert set(task.collator(tokenizer)([rows[0]])) == {
        "input_ids",
        "attention_mask",
        "token_type_ids",
        "start_positions",
        "end_positions",
    } & {*rows.column_names}


def naive_answers(
    windows: list[dict[str, Any]], kept: list[np.ndarray], contexts: list[str], *, longest: int, least: float | None
) -> list[str]:
    """All pairs of a first and a last token of all windows, one by one."""
    answers = []
    for example, context in enumerate(contexts):
        pairs, none = [], []
        for window, logits in zip(windows, kept, strict=True):
            if window["example"] != example:
                continue
            none.append(logits[0, 0] + logits[0, 1])
            for first, (begin, _) in enumerate(window["offsets"]):
                for last, (_, end) in enumerate(window["offsets"]):
                    if first <= last < first + longest:
                        pairs.append((logits[1 + first, 0] + logits[1 + last, 1], context[begin:end]))
        score, answer = max(pairs, key=lambda pair: pair[0])
        answers.append("" if least is not None and min(none) - score > least else answer)
    return answers


@pytest.mark.parametrize("settings", [{}, {"no_answer": True}, {"no_answer": True, "null_threshold": -1.5}])
@pytest.mark.parametrize("longest", [1, 3, 30])
def test_answers_are_the_best_spans(tokenizer: PreTrainedTokenizerFast, settings: dict[str, Any], longest: int) -> None:
    task = make_task(max_answer_tokens=longest, **settings)
    examples, _ = clean(task, random_rows(30, seed=3))
    rows = task.tokenize(examples, tokenizer)
    generator = np.random.default_rng(0)
    kept = [generator.normal(size=(1 + length, 2)) for length in rows["context_length"][:]]
    for values in kept:
        values[0] += 1.2  # so that no answer wins at times
    outputs = Lists(np.concatenate(kept), np.array([len(values) for values in kept]))
    found = task.predictions(outputs, rows, examples)
    least = settings.get("null_threshold", 0.0) if settings else None
    assert found == naive_answers(list(rows), kept, examples["context"][:], longest=longest, least=least)
    assert len(set(found)) > 5
    assert ("" in found) == bool(settings)
    assert task.references(rows, examples) == [row["text"] for row in examples["answers"]]


def test_best_span_of_nothing() -> None:
    assert best_span(np.zeros(0), np.zeros(0), 3) is None


def test_rows_that_cannot_be_learned_from() -> None:
    context = " the cat  sat "
    good = answers_of(context, "cat", "the cat")
    wrong = {"text": ["dog", ""], "answer_start": [5, 0]}
    rows = [
        {"question": " who? ", "context": context, "answers": good},
        {"question": "who?", "context": context, "answers": {"text": ["cat", "sat"], "answer_start": [4, 10]}},
        {"question": "who?", "context": context, "answers": wrong},
        {"question": "who?", "context": context, "answers": {"text": [], "answer_start": []}},
        {"question": "who?", "context": context, "answers": None},
        {"question": " ", "context": context, "answers": good},
        {"question": "who?", "context": "  ", "answers": good},
    ]
    kept, dropped = clean(make_task(), rows)
    assert kept["context"][0] == context
    assert kept["answers"][:] == [good, answers_of(context, "sat")]
    assert dropped == {"no answer where answer_start says": 1, "no answer": 1, "no label": 1, "empty text": 2}
    kept, dropped = clean(make_task(no_answer=True), rows)
    assert kept["answers"][2] == {"text": [], "answer_start": []}
    assert "no answer" not in dropped


def test_answers_may_be_a_list_of_pairs() -> None:
    pairs = [{"text": "cat", "answer_start": 4}, {"text": "the", "answer_start": 0}]
    rows = [{"question": "who?", "context": "the cat", "answers": pairs}]
    assert clean(make_task(), rows)[0]["answers"][0] == {"text": ["cat", "the"], "answer_start": [4, 0]}


@pytest.mark.parametrize("answers", ["cat", {"text": ["cat"]}, {"text": ["cat"], "answer_start": [1, 2]}, ["cat"]])
def test_a_column_without_answers_is_refused(answers: Any) -> None:
    with pytest.raises(DataError, match=r"(?s)does not hold answers.*Row 1.*answer_start"):
        clean(make_task(), [{"question": "who?", "context": "cat", "answers": answers}])


def test_a_context_is_in_one_split_with_all_its_questions(tmp_path: Any) -> None:
    rows = [{**row, "question": f"w{i}?"} for row in random_rows(80, seed=4) for i in range(3)]
    Dataset.from_list(rows).to_json(str(tmp_path / "rows.jsonl"))
    data = load_task_data(make_task(dataset=str(tmp_path / "rows.jsonl")))
    contexts = [set(data.splits[name]["context"]) for name in ("train", "validation", "test")]
    assert sum(map(len, contexts)) == len(set.union(*contexts)) == len({row["context"] for row in rows})
    assert sum(data.summary.rows.values()) == 240
    assert data.summary.label_names == []


def test_a_teacher_must_beat_the_whole_context(tokenizer: PreTrainedTokenizerFast) -> None:
    task = make_task()
    rows = task.tokenize(clean(task, random_rows(40, seed=5))[0], tokenizer)
    right, whole = [], []
    for row in rows:
        logits = np.zeros((1 + row["context_length"], 2))
        if row["start_positions"] != row["null_position"]:
            for column, name in enumerate(("start_positions", "end_positions")):
                logits[1 + row[name] - row["context_start"], column] = 1.0
        right.append(logits)
        whole.append(np.zeros_like(logits))
        whole[-1][1, 0] = whole[-1][-1, 1] = 1.0
    counts = np.array([len(values) for values in right])
    assert task.weakness(Lists(np.concatenate(right), counts), rows) is None
    said = task.weakness(Lists(np.concatenate(whole), counts), rows)
    assert said is not None
    given, always = (float(part.split()[0].rstrip(".;")) for part in (said.split(" is ")[1], said.split("have ")[1]))
    assert given == always < 0.9


def test_settings_that_contradict_each_other() -> None:
    for wrong, words in [
        ({"stride": 11}, "half of their tokens"),
        ({"null_threshold": 1.0}, "no_answer: true"),
        ({"max_length": 15}, "greater than or equal to 16"),
    ]:
        with pytest.raises(ValueError, match=words):
            make_task(**wrong)


def test_the_head_has_a_start_and_an_end() -> None:
    assert make_task().model_kwargs(None) == {"num_labels": 2}
