"""Columns that are not tensors or not read, and stores that are opened one after the other."""

import gc
import weakref

import numpy as np
import pytest
import tiny_seq2seq
import torch
from small_runs import CPU, LOGITS, collate, rows_of_lengths
from tiny_models import VOCAB
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification

from distil_nlp.signals import Needs, Shape, Signals
from distil_nlp.teachers import ModelTeacher, StoredTeacher
from distil_nlp.teachers.store import OutputStore

ROWS = rows_of_lengths((5, 3, 6, 4))
TEXTS = ["a", "bb", "ccc", "dddd"]


class Reader:
    """Gives the length of each row's text, as two logits, whatever its tokens are."""

    shape = Shape(num_layers=1, width=8, num_heads=1, num_outputs=2, item="example")
    input_names = frozenset({"input_ids", "attention_mask", "texts", "note"})

    def __init__(self):
        self.seen = []

    def prepare(self, needs, device):
        pass

    def __call__(self, batch, needs):
        self.seen += batch["texts"]
        return Signals(logits=torch.tensor([[float(np.sum(self.size(text))), 0.0] for text in batch["texts"]]))

    @staticmethod
    def size(text):
        return len(text) if isinstance(text, str) else np.asarray(text)

    def fingerprint(self):
        return "reader"


def made_of(order, texts, kind=list, **columns):
    return {**collate([ROWS[row] for row in order]), "texts": kind(texts[row] for row in order), **columns}


def opened(folder, teacher):
    stored = StoredTeacher(teacher, folder)
    stored.prepare(LOGITS, CPU)
    return stored


@pytest.mark.parametrize("kind", [list, tuple])
def test_rows_are_found_whatever_texts_stand_beside_them(tmp_path, kind):
    teacher = Reader()
    stored = opened(tmp_path, teacher)
    stored(made_of((0, 1), TEXTS, kind), LOGITS)
    got = stored(made_of((3, 1, 0, 2), TEXTS, kind), LOGITS).logits
    assert got[:, 0].tolist() == [4, 2, 1, 3]
    assert teacher.seen == ["a", "bb", "dddd", "ccc"]  # each once, and those that were missing alone
    stored(made_of((2, 3), TEXTS, kind), LOGITS)
    assert stored.num_rows == 4


def test_what_a_list_says_of_a_row_tells_it_from_others(tmp_path):
    """Large arrays that differ in what their repr leaves out."""
    teacher, one = Reader(), np.ones(2000)
    two = one.copy()
    two[1000] = 2
    stored = opened(tmp_path, teacher)
    for texts in ([one, one, one, one], [two, one, one, one]):
        got = stored(made_of((0, 1), [torch.tensor(text) for text in texts]), LOGITS).logits
        assert got[:, 0].tolist() == [texts[0].sum(), 2000]
    assert len(teacher.seen) == 3


def test_what_is_said_of_a_whole_batch_belongs_to_every_row(tmp_path):
    teacher = Reader()
    stored = opened(tmp_path, teacher)
    for note in ("x", ["x", "y", "z"]):
        stored(made_of((0, 1), TEXTS, note=note), LOGITS)
    assert stored.num_rows == 4


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("auto", [AutoModelForSequenceClassification, AutoModelForQuestionAnswering])
def test_labels_are_not_read_by_an_encoder_decoder_that_writes_nothing(tmp_path, family, auto):
    teacher = auto.from_config(tiny_seq2seq.CONFIGS[family](vocab_size=VOCAB, num_labels=2)).eval()
    rows = [{**row, "labels": row["labels"] % 2} for row in ROWS]
    for row in rows:  # by which BART finds what it classifies
        row["input_ids"] = torch.cat([row["input_ids"], torch.tensor([teacher.config.eos_token_id])])
        row["attention_mask"] = torch.ones_like(row["input_ids"])
    stored = opened(tmp_path, teacher)
    stored(collate(rows[:2]), LOGITS)
    made = collate([{**row, "labels": 1 - row["labels"]} for row in rows])
    got, expected = stored(made, LOGITS).logits, ModelTeacher(teacher)(made, LOGITS).logits
    assert stored.num_rows == len(rows)
    if auto is AutoModelForQuestionAnswering:  # padding's are not stored
        expected = expected.masked_fill(made["attention_mask"][:, None] == 0, 0)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_store_that_another_has_replaced_is_let_go(tmp_path):
    stored = opened(tmp_path, Reader())
    stored(made_of((0, 1), TEXTS), LOGITS)
    first = weakref.ref(stored._recording.store)
    stored.prepare(LOGITS, CPU)
    gc.collect()
    assert first() is None
    assert stored.num_rows == 2  # what waited was written
    stored(made_of((2, 3), TEXTS), LOGITS)
    folder = stored._recording.store.folder
    stored.prepare(Needs(), CPU)
    assert len(OutputStore(folder)) == 4


def test_what_waits_when_a_teacher_goes_is_written(tmp_path):
    stored = opened(tmp_path, Reader())
    stored.prepare(LOGITS, CPU)
    stored(made_of((0, 1), TEXTS), LOGITS)
    folder = stored._recording.store.folder
    del stored
    gc.collect()
    assert len(OutputStore(folder)) == 2


def test_where_rows_end_takes_eight_bytes_a_row(tmp_path):
    store = OutputStore(tmp_path)
    for number in range(50):
        store.add(number.to_bytes(16, "big"), {"a": np.full((number % 3, 2), number, dtype=np.float32)})
    store.flush()
    for number in range(50):
        assert store.get(number.to_bytes(16, "big"))["a"].tolist() == [[number, number]] * (number % 3)
    (shard,) = store._shards.values()
    assert sum(ends.nbytes for ends in shard._ends.values()) == 8 * 51
