"""Words and windows of tokenizers of all kinds, against transformers' example scripts and the tokenizers' parts."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_run import build_tokenizer
from tiny_tokenizers import CORPUS, KINDS, TRAINING_TEXTS, tiny_tokenizer
from transformers import PreTrainedTokenizerBase

from distil_nlp.data.read import RawData
from distil_nlp.data.tasks import FillMask, QuestionAnswering, TokenClassification
from distil_nlp.recipe.tasks import FillMaskSection, QuestionAnsweringSection, TokenClassificationSection

TEXTS = [*TRAINING_TEXTS, *filter(None, CORPUS)]
TAGS = ["O", "B-X"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "##b", *"abcdefghij", *"東京北西"]


# ---- question answering ----


def question_answering(**settings: Any) -> QuestionAnswering:
    values = {"name": "question-answering", "dataset": "here", **settings}
    return QuestionAnswering(QuestionAnsweringSection.model_validate(values))


def clean(task: QuestionAnswering, rows: list[dict[str, Any]]) -> tuple[Dataset, dict[str, int]]:
    dropped: Counter[str] = Counter()
    return task.clean(RawData({"train": Dataset.from_list(rows)}), dropped)["train"], dict(dropped)


def asked(question: str, context: str, text: str, at: int) -> dict[str, Any]:
    return {"question": question, "context": context, "answers": {"text": [text], "answer_start": [at]}}


def rows_of(count: int) -> list[dict[str, Any]]:
    """Answers are whole words of odd texts, and spaces may stand around these."""
    dice, rows = random.Random(0), []
    for _ in range(count):
        context = dice.choice(["", "  "]) + "  ".join(dice.choices(TEXTS, k=3)) + dice.choice(["", " "])
        starts = [at for at, sign in enumerate(context) if sign != " " and (not at or context[at - 1] == " ")]
        at = dice.choice(starts)
        text = " ".join(context[at:].split(" ")[: dice.randint(1, 3)]).strip()
        rows.append(asked(" ".join(dice.choices(["hug", "what?", "café"], k=3)), context, text, at))
    return rows


def example_features(
    row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, *, max_length: int, stride: int
) -> list[dict[str, Any]]:
    """``prepare_train_features`` of transformers' examples/pytorch/question-answering/run_qa.py, for one row.

    There an answer at the last token of a window starts after it, since special tokens have a place, too: (0, 0).
    """
    how = {"truncation": "only_second", "max_length": max_length, "stride": stride}
    how |= {"return_overflowing_tokens": True, "return_offsets_mapping": True}
    encoded, features = tokenizer([row["question"]], [row["context"]], **how), []
    start, text = row["answers"]["answer_start"][0], row["answers"]["text"][0]
    end = start + len(text)
    for window, (ids, offsets) in enumerate(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)):
        null, parts = ids.index(tokenizer.cls_token_id), encoded.sequence_ids(window)
        first = parts.index(1)
        last = len(parts) - 1 - parts[::-1].index(1)
        if not (offsets[first][0] <= start and offsets[last][1] >= end):
            features.append({"input_ids": ids, "start_positions": null, "end_positions": null})
            continue
        behind = last
        while first <= behind and offsets[first][0] <= start:
            first += 1
        while offsets[last][1] >= end:
            last -= 1
        features.append({"input_ids": ids, "start_positions": first - 1, "end_positions": last + 1})
    return features


@pytest.mark.parametrize("kind", KINDS)
def test_windows_are_those_of_transformers_example(kind: str) -> None:
    """Answers have the same characters; of one with several tokens the example takes one, and here it is all."""
    task, tokenizer = question_answering(max_length=64, stride=16), tiny_tokenizer(kind)
    rows = rows_of(80)
    tokenized = task.tokenize(clean(task, rows)[0], tokenizer)
    wanted = [each for row in rows for each in example_features(row, tokenizer, max_length=64, stride=16)]
    assert tokenized["input_ids"][:] == [each["input_ids"] for each in wanted]
    answers = 0
    for window, theirs in zip(tokenized, wanted, strict=True):
        places, start = window["offsets"], window["context_start"]
        ours = (window["start_positions"], window["end_positions"])
        if theirs["start_positions"] == 0:
            assert ours == (0, 0)
            continue
        first, last = (position - start for position in ours)
        assert places[first][0] == places[theirs["start_positions"] - start][0]
        assert places[last][1] == places[theirs["end_positions"] - start][1]
        assert ours[0] <= theirs["start_positions"]
        assert ours[1] >= theirs["end_positions"]
        answers += 1
    assert answers > 40
    assert len(tokenized) - answers > 20


@pytest.mark.parametrize(("max_length", "stride"), [(16, 0), (16, 8), (20, 10)])
@pytest.mark.parametrize("kind", KINDS)
def test_any_long_question_leaves_room(kind: str, max_length: int, stride: int) -> None:
    """A cut within a word, or a character of several tokens, makes other tokens of what is left, perhaps more."""
    dice = random.Random(1)
    pieces = ["unbelievable", "long", "est", "東京", "🙂", "é", "z", " ", "qqq", "-", "ß", "∞", "İ"]
    context = "the film was good " * 5
    rows = [asked("".join(dice.choices(pieces, k=n)) + "?", context, "film", 4) for n in range(1, 40)]
    task = question_answering(max_length=max_length, stride=stride)
    tokenized = task.tokenize(clean(task, rows)[0], tiny_tokenizer(kind))
    assert {*tokenized["example"]} == {*range(len(rows))}
    assert max(map(len, tokenized["input_ids"])) <= max_length


def test_a_long_question_keeps_its_beginning_whatever_side_a_tokenizer_cuts() -> None:
    tokenizer, task = tiny_tokenizer("wordpiece"), question_answering(max_length=24, stride=8)
    row = asked("hug " + "film " * 40, "the film was good " * 9, "film", 4)
    whole = task.tokenize(clean(task, [row])[0], tokenizer)
    tokenizer.truncation_side = "left"
    left = task.tokenize(clean(task, [row])[0], tokenizer)
    start = whole["context_start"][0]
    assert start < 12
    assert {tuple(ids[:start]) for ids in [*whole["input_ids"], *left["input_ids"]]} == {
        tuple(whole[0]["input_ids"][:start])
    }
    assert tokenizer.decode(whole[0]["input_ids"]).startswith("[CLS] hug film film")


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_answer_is_no_answer(text: str) -> None:
    rows = [asked("who?", "the cat sat", text, at) for at in (-1, 0, 3)] + [asked("who?", "the cat sat", "cat", 4)]
    kept, dropped = clean(question_answering(no_answer=True), rows)
    assert ([row["text"] for row in kept["answers"]], dropped) == ([[], [], [], ["cat"]], {})
    kept, dropped = clean(question_answering(), rows)
    assert ([row["text"] for row in kept["answers"]], dropped) == ([["cat"]], {"no answer": 3})


def test_answers_that_no_window_holds_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Windows have 12 tokens of the context, and the next one begins with the last 6 of them."""
    tokenizer, task = build_tokenizer(WORDS), question_answering(max_length=16, stride=6)
    context = " ".join("abcdefghij" * 4)
    rows = [asked("a", context, context[:size], 0) for size in (1, 2 * 12 - 1, 2 * 13 - 1)]
    rows += [asked("a", context, context[at:][: 2 * 8 - 1], at) for at in (2 * 4, 2 * 5)]  # one is in no window
    task.tokenize(clean(task, rows)[0], tokenizer)
    assert "2 rows have an answer that no window holds as a whole" in caplog.text
    caplog.clear()
    task = question_answering(max_length=16, stride=6, no_answer=True)
    task.tokenize(clean(task, [rows[0], {**rows[0], "answers": {"text": [], "answer_start": []}}])[0], tokenizer)
    assert not caplog.text


# ---- token classification ----


def tagged(words: list[list[str]], tokenizer: PreTrainedTokenizerBase, max_length: int = 512) -> Dataset:
    values = {"name": "token-classification", "dataset": "here", "max_length": max_length}
    task = TokenClassification(TokenClassificationSection.model_validate(values))
    tags = [[TAGS[place % 2] for place in range(len(row))] for row in words]
    rows = Dataset.from_dict({"tokens": words, "tags": tags})
    return task.tokenize(task.clean(RawData({"train": rows}), Counter())["train"], tokenizer)


SPACED = ("byte_level_bpe", "whole_word_bpe")  # whose tokens hold the space before a word
CASES = [(kind, False) for kind in KINDS if kind != "byte_fallback_bpe"]  # of which tokens go across words
CASES += [(kind, True) for kind in SPACED]


@pytest.mark.parametrize(("kind", "prefix_space"), CASES)
def test_words_are_cut_as_the_text_that_they_make(kind: str, prefix_space: bool) -> None:
    """Also where the tokenizer puts a space before each word that it is given."""
    tokenizer = tiny_tokenizer(kind)
    if prefix_space:
        tokenizer.backend_tokenizer.pre_tokenizer.add_prefix_space = True
    texts = [text for text in TEXTS if "<" not in text]
    rows = tagged([text.split() for text in texts], tokenizer)
    assert rows["input_ids"][:] == tokenizer([" ".join(text.split()) for text in texts])["input_ids"]
    assert rows["words"][:] == [[*range(len(text.split()))] for text in texts]
    for text, row in zip(texts, rows, strict=True):
        labels = [label for label in row["labels"] if label != -100]
        assert labels == [(1 + place) % 2 for place in range(len(text.split()))]  # names are sorted: B-X is 0


def example_labels(words: list[str], tags: list[int], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[int]:
    """``tokenize_and_align_labels`` of transformers' examples/pytorch/token-classification/run_ner.py, for one row."""
    encoded = tokenizer(words, truncation=True, max_length=max_length, is_split_into_words=True)
    labels, before = [], None
    for word in encoded.word_ids(0):
        labels.append(-100 if word is None or word == before else tags[word])
        before = word
    return labels


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_those_of_transformers_example(kind: str) -> None:
    """The example, too, wants a tokenizer that puts a space before words, where tokens hold it."""
    tokenizer = tiny_tokenizer(kind)
    words = [text.split() for text in TEXTS] + [["\u200b", "a", "", " ", "[SEP]", "🙂", "New York", "<extra>", "b"]]
    rows = tagged(words, tokenizer, max_length=14)
    with_space = [[f" {word}" if at and word else word for at, word in enumerate(row)] for row in words]
    given = with_space if kind in SPACED else words
    tags = [[(1 + place) % 2 for place in range(len(row))] for row in words]
    wanted = [example_labels(*row, tokenizer, 14) for row in zip(given, tags, strict=True)]
    assert rows["labels"][:] == wanted


def test_words_without_a_token_get_none_beside_a_space() -> None:
    rows = tagged([["", "hug", "", "hug"]], tiny_tokenizer("byte_level_bpe"))
    assert rows["words"][0] == [1, 3]
    assert rows["input_ids"][0] == tiny_tokenizer("byte_level_bpe")(" hug hug")["input_ids"]


@pytest.mark.parametrize(("max_length", "lost"), [(64, 1), (7, 3)])
def test_words_that_are_lost_are_counted(caplog: pytest.LogCaptureFixture, max_length: int, lost: int) -> None:
    tokenizer = build_tokenizer(WORDS)
    rows = tagged([["abb", "ab", "", "abb", "a"], ["a"]], tokenizer, max_length)
    assert sum(map(len, rows["words"])) == 6 - lost
    assert f"{lost} of 6 words are cut off by max_length, or have no token." in caplog.text
    caplog.clear()
    tagged([["ab", "a"]], tokenizer)
    assert not caplog.text


# ---- hidden words ----


def lengths_of_words(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """How many tokens each word has: of the parts that cut a text into words, and a word into tokens."""
    backend = tokenizer.backend_tokenizer
    normal = backend.normalizer.normalize_str(text) if backend.normalizer else text
    return [len(backend.model.tokenize(word)) for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal)]


@pytest.mark.parametrize("kind", ["wordpiece", "byte_level_bpe", "word_end_bpe", "byte_fallback_unigram"])
def test_words_of_any_script_are_hidden_whole_and_by_themselves(kind: str) -> None:
    """Characters of several tokens are not torn, nor is what has no space in it one word if the tokenizer cuts it."""
    tokenizer = tiny_tokenizer(kind)
    texts = ["東京北京 is far away, naïve café!", "très bien 🙂🙂 hugging", "unbelievable Größte Fröhlichkeit"]
    settings = {"name": "fill-mask", "dataset": "here", "whole_words": True, "mask_probability": 0.4}
    task = FillMask(FillMaskSection.model_validate(settings))
    rows = task.tokenize(Dataset.from_dict({"text": texts}), tokenizer)
    torch.manual_seed(0)
    labels = task.collator(tokenizer)([rows[at] for at in range(len(rows))] * 30)["labels"].tolist()
    lengths, several, apart = [lengths_of_words(text, tokenizer) for text in texts], 0, 0
    for hidden, ids, sizes in zip(labels, rows["input_ids"][:] * 30, lengths * 30, strict=True):
        assert len(ids) == sum(sizes) + 2
        last, before = 0, None
        for size in sizes:
            first, last = last + 1, last + size
            known = [at for at in range(first, last + 1) if ids[at] != tokenizer.unk_token_id]
            whole = {hidden[at] != -100 for at in known}
            assert len(whole) < 2
            several += whole == {True} and len(known) > 1
            apart += before is not None and whole | before == {False, True}
            before = whole
    assert several > 20
    assert apart > 20


def test_signs_without_spaces_are_words_where_the_tokenizer_cuts_them() -> None:
    """BERT's tokenizer does so with Chinese."""
    tokenizer = build_tokenizer(WORDS)
    tokenizer.mask_token = "[MASK]"
    task = FillMask(FillMaskSection.model_validate({"name": "fill-mask", "dataset": "here", "whole_words": True}))
    rows = task.tokenize(Dataset.from_dict({"text": ["東京北西京東北西abbb"]}), tokenizer)
    torch.manual_seed(0)
    labels = task.collator(tokenizer)([rows[0]] * 400)["labels"][:, 1:-1]  # [rows, tokens]
    hidden = (labels != -100).float()
    assert hidden.shape[1] == 12
    assert torch.corrcoef(hidden.T)[:9, :9].triu(1).abs().max() < 0.2  # each by itself
    assert (hidden[:, 8:] == hidden[:, 8:9]).all()
