"""Copies of texts with changed words, against what each probability says about many of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from distil_nlp.data.augment import Augmentation, augmented
from distil_nlp.data.words import Words

TEXT = "One  fine day, the 3rd fox (a red one) can't jump over  lazy dogs any more!"
LONG = " ".join(f"w{i}" for i in range(50))
FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})


class Fake:
    """Every word that ends in an even digit has three candidates."""

    calls = 0

    def __call__(self, texts: Sequence[Words]) -> list[list[list[str]]]:
        self.calls += 1
        return [[[f"{word}{x}" for x in "abc"] if word[-1] in "02468" else [] for word in text] for text in texts]

    def fingerprint(self) -> str:
        return "fake"


def rows_of(*texts: str) -> Dataset:
    return Dataset.from_dict({"text": list(texts), "label": [1] * len(texts)}, features=FEATURES)


def make(rows: Dataset, columns: Sequence[str] = ("text",), *, copies: int = 400, **how: Any) -> Dataset:
    return augmented(rows, columns, Augmentation(copies=copies, seed=how.pop("seed", 0), **how))


def masking(probability: float) -> dict[str, Any]:
    return {"mask_token": "[MASK]", "mask_probability": probability}


def test_words_are_runs_of_letters_and_digits_and_single_other_characters() -> None:
    words = list(Words.of(TEXT))
    assert words[:6] == ["One", "fine", "day", ",", "the", "3rd"]
    assert words[7:17] == ["(", "a", "red", "one", ")", "can", "'", "t", "jump", "over"]
    assert Words.of(TEXT).with_words(words) == TEXT
    assert Words.of(TEXT).with_words([word.upper() for word in words]) == TEXT.upper()
    assert Words.of(TEXT).with_words(words, slice(0, 4)) == "One  fine day,"
    assert Words.of("").with_words([]) == ""
    assert list(Words.of("नदी का पानी, है। a_b 👍!")) == ["नदी", "का", "पानी", ",", "है", "।", "a_b", "👍", "!"]
    listed = Words.of(["New York", "", "is"])
    assert (list(listed), listed.text) == (["New York", "", "is"], "New York  is")
    assert listed.with_words(["a", "b", "c"]) == ["a", "b", "c"]


def test_words_are_masked_as_often_as_asked_and_all_else_stays() -> None:
    found = make(rows_of(LONG), **masking(0.1))["text"][:]
    assert len(found) == 400
    masks = [word == "[MASK]" for text in found for word in text.split(" ")]
    assert len(masks) == 400 * 50
    assert sum(masks) / len(masks) == pytest.approx(0.1, abs=0.01)
    for text in found:
        assert all(new in ("[MASK]", old) for new, old in zip(text.split(" "), LONG.split(" "), strict=True))
    for text in make(rows_of(TEXT), **masking(0.3))["text"][:]:
        pattern = ".+?".join(re.escape(part) for part in text.split("[MASK]"))
        assert re.fullmatch(pattern, TEXT)


def test_replaced_words_are_any_of_their_candidates() -> None:
    found = make(rows_of(LONG), replace_probability=0.4, sources=(Fake(),))["text"][:]
    ends: Counter[str] = Counter()
    for text in found:
        for new, old in zip(text.split(" "), LONG.split(" "), strict=True):
            assert new == old or (new[:-1] == old and old[-1] in "02468")
            if old[-1] in "02468":
                ends[new.removeprefix(old)] += 1
    assert ends.total() == 400 * 25
    for end in "abc":
        assert ends[end] / ends.total() == pytest.approx(0.4 / 3, abs=0.015)


def test_candidates_of_several_sources_are_drawn_from_together() -> None:
    how = Augmentation(copies=1, seed=0, sources=(Fake(), Fake()))
    assert how.candidates([Words.of("x1 x2")]) == [[[], ["x2a", "x2b", "x2c"] * 2]]


def test_one_draw_decides_what_happens_to_a_word() -> None:
    how = {**masking(0.3), "replace_probability": 0.7, "sources": (Fake(),)}
    for text in make(rows_of(LONG), copies=50, **how)["text"][:]:
        for new, old in zip(text.split(" "), LONG.split(" "), strict=True):
            assert new == "[MASK]" or (new != old) == (old[-1] in "02468")


def test_ngrams_are_one_to_five_words_in_a_row_in_a_quarter_of_the_copies() -> None:
    found = make(rows_of(LONG), copies=4000, ngram_probability=0.25)["text"][:]
    sizes = Counter(len(text.split(" ")) for text in found)
    assert set(sizes) == {1, 2, 3, 4, 5, 50}
    assert sizes[50] / 4000 == pytest.approx(0.75, abs=0.03)
    for size in range(1, 6):
        assert sizes[size] / 4000 == pytest.approx(0.05, abs=0.015)
    assert all(f" {text} " in f" {LONG} " for text in found)
    firsts = {text.split(" ")[0] for text in found if len(text.split(" ")) == 5}
    assert firsts == {f"w{i}" for i in range(46)}
    assert set(make(rows_of("a b"), ngram_probability=1.0)["text"][:]) == {"a", "b", "a b"}


def test_of_a_copy_more_than_masks_is_left() -> None:
    found = make(rows_of("a b"), **masking(0.9))["text"][:]
    assert 0 < len(found) < 400
    assert set(found) == {"a b", "[MASK] b", "a [MASK]"}


def test_copies_have_no_labels_and_the_types_of_the_rows() -> None:
    found = make(rows_of(LONG), copies=3, **masking(0.1))
    assert found.features == FEATURES
    assert found["label"][:] == [None] * 3


def test_pairs_change_in_the_first_the_second_and_both_in_turn() -> None:
    rows = Dataset.from_dict({"text": [LONG], "text_pair": [LONG]})
    found = make(rows, ("text", "text_pair"), copies=7, **masking(0.2))
    changed = [(row["text"] != LONG, row["text_pair"] != LONG) for row in found]
    turns = [(True, False), (False, True), (True, True)]
    assert changed == [*turns, *turns, turns[0]]
    assert found[2]["text"] != found[2]["text_pair"]


def test_lists_keep_their_number_of_words() -> None:
    rows = Dataset.from_dict({"tokens": [LONG.split(" "), ["New York", "2"]], "tags": [[0] * 50, [1, 1]]})
    found = make(rows, ("tokens",), copies=20, replace_probability=0.5, sources=(Fake(),), **masking(0.2))
    assert {len(words) for words in found["tokens"][:]} == {50, 2}
    assert any(words[0] == "[MASK]" for words in found["tokens"][20:])
    assert found["tags"][0] is None


def test_copies_depend_on_the_seed_and_the_text_alone() -> None:
    how = {"replace_probability": 0.3, "ngram_probability": 0.3, "sources": (Fake(),)}
    texts = [f"{LONG} {i}" for i in range(30)]
    first = make(rows_of(*texts), copies=5, **how)["text"][:]
    assert make(rows_of(*texts), copies=5, **how)["text"][:] == first
    backwards = make(rows_of(*reversed(texts)), copies=5, **how)["text"][:]
    assert [backwards[i : i + 5] for i in range(145, -1, -5)] == [first[i : i + 5] for i in range(0, 150, 5)]
    assert make(rows_of(texts[7]), copies=5, **how)["text"][:] == first[35:40]
    assert make(rows_of(texts[7]), copies=3, **how)["text"][:] == first[35:38]
    assert make(rows_of(*texts), copies=5, seed=1, **how)["text"][:] != first


def test_copies_are_kept_on_the_disk(tmp_path: Path) -> None:
    rows_of(LONG, TEXT).to_parquet(str(tmp_path / "rows.parquet"))
    rows = datasets.load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), split="train")
    source = Fake()
    how = {**masking(0.2), "replace_probability": 0.3, "sources": (source,)}
    first = make(rows, copies=5, **how)
    assert source.calls == 1
    again = make(rows, copies=5, **how)
    assert source.calls == 1
    assert again[:] == first[:]
    assert make(rows, copies=5, seed=3, **how)[:] != first[:]
    assert source.calls == 2
