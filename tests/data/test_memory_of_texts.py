"""What is held in memory, or looked at again, does not grow with the text where it need not."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset
from test_candidates import PIECES, SPECIAL, WHOLE, word_pieces
from test_unlabelled import task_of, write
from transformers import BertConfig, BertForMaskedLM

from distil_nlp.data import candidates
from distil_nlp.data.candidates import MaskedWords, Neighbours
from distil_nlp.data.split import content_key, unknown_rows
from distil_nlp.data.teacher_targets import TargetFile, with_teacher_targets
from distil_nlp.data.unlabelled import keys_of
from distil_nlp.data.words import Words


def peak(work: Callable[[], Any]) -> int:
    """Bytes that Python and numpy have at most while something runs."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_keys_are_made_without_all_texts_in_memory(tmp_path: Path) -> None:
    count = 5000
    texts = [f"{number} " + "film " * 200 for number in range(count)]
    write(tmp_path / "rows.jsonl", [{"text": text} for text in texts])
    rows = load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), split="train", cache_dir=str(tmp_path))
    task = task_of("text-classification", tmp_path)
    assert list(keys_of(task, rows)) == [content_key(text) for text in texts]
    assert list(keys_of(task, rows.select([4000, 7]))) == [content_key(texts[4000]), content_key(texts[7])]
    assert list(keys_of(task, rows.select([]))) == []
    assert peak(lambda: unknown_rows(keys_of(task, rows), {}, once="repeat")) < count * 600  # a text has 1,000 bytes


def make_targets(path: Path, rows: int, tokens: int) -> TargetFile:
    file = TargetFile(path, belongs_to="mine", decode=lambda tokens: "text " * len(tokens))
    assert file.read() == {}
    file.add({row: list(range(row, row + tokens)) for row in range(rows)})
    return file


def test_targets_take_the_memory_of_their_tokens(tmp_path: Path) -> None:
    rows, tokens = 1000, 200
    file = make_targets(tmp_path / "targets.jsonl", rows, tokens)
    assert peak(file.read) < rows * tokens * 6  # 4 bytes each
    assert all(np.array_equal(ids, range(row, row + tokens)) for row, ids in file.read().items())


def test_labels_that_a_teacher_has_written_have_the_type_of_the_others(tmp_path: Path) -> None:
    file = make_targets(tmp_path / "targets.jsonl", 2, 3)
    rows = Dataset.from_dict({"input_ids": [[1], [2, 3], [4]], "labels": [[1], [2], []]})
    made = with_teacher_targets(rows, lambda batch: [[70_000]] * len(batch), list, file=file, batch_size=2)
    assert made.features == rows.features
    assert made["labels"][:] == [[0, 1, 2], [1, 2, 3], [70_000]]
    assert made["input_ids"][:] == rows["input_ids"][:]


@pytest.mark.parametrize("broken", ['{"row": 9, "tokens": [1', "no json\n", '{"row": 9, "tokens": [1], "text": ""}'])
def test_targets_up_to_a_broken_line_are_kept(tmp_path: Path, broken: str) -> None:
    file = make_targets(tmp_path / "targets.jsonl", 2, 3)
    whole = file.path.read_bytes()
    with file.path.open("a", encoding="utf-8") as opened:
        opened.write(broken + ('{"row": 8}\n' if broken.endswith("\n") else ""))
    assert sorted(file.read()) == [0, 1]
    assert file.path.read_bytes() == whole
    assert [json.loads(line).get("row") for line in whole.splitlines()] == [None, 0, 1]


def test_known_words_cost_no_copy_of_the_embeddings() -> None:
    embeddings = torch.randn(len(SPECIAL + WHOLE + PIECES), 8)
    source, text = Neighbours(word_pieces(), embeddings, count=3), [Words.of("the film was good")]
    expected = source(text)
    with torch.profiler.profile() as watched:
        assert source(text) == expected
    assert not watched.events()


class Watched(Words):
    """Counts the words that are looked at."""

    looked = 0

    def __iter__(self) -> Any:
        for word in super().__iter__():
            type(self).looked += 1
            yield word


def test_of_a_long_text_no_more_is_looked_at_than_the_model_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(vocab_size=len(SPECIAL + WHOLE + PIECES), max_position_embeddings=32, **sizes))
    source = MaskedWords(model, word_pieces(), count=3, max_length=12)
    monkeypatch.setattr(candidates, "_LOGITS", 1)  # a batch for each word
    beginning = "the playing film, was 7 very good then "
    [short] = source([Words.of(beginning + "bad music plot")])
    long = Words.of(beginning + "bad music plot " * 2000)
    [found] = source([Watched(long.text, long.spans)])
    assert found[: len(short)] == short
    assert sum(map(bool, short)) > 3
    assert not any(found[len(short) :])
    assert Watched.looked < 2 * len(long)  # once to count them, and the first few
