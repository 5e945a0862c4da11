"""Batches of an evaluation: which rows they have, and what of them is read."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence

from distil_nlp.build import rows as build_rows
from distil_nlp.data.collate import OnlyColumns
from distil_nlp.evaluation.quality import PaddedBatches


class Counting:
    """Pads, and keeps the rows that it was given."""

    def __init__(self) -> None:
        self.seen: list[list[dict[str, Any]]] = []

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        self.seen.append(rows)
        return {
            name: pad_sequence([torch.tensor(row[name]) for row in rows], batch_first=True, padding_value=-1)
            for name in ("input_ids", "labels")
            if name in rows[0]
        }


def dataset(count: int = 50, *, seed: int = 0, longest: int = 30) -> Dataset:
    generator = np.random.default_rng(seed)
    lists = [generator.integers(0, 99, length).tolist() for length in generator.integers(1, longest, count)]
    return Dataset.from_dict({"input_ids": lists, "offsets": [[[0, 1]] * len(row) for row in lists]})


def test_every_row_is_in_one_batch_shorter_ones_first():
    rows = dataset().select(range(40, 3, -2))  # whose table has others, in another order
    expected = sorted(rows["input_ids"][:], key=len)  # as stable as that of the library
    batches = list(PaddedBatches(rows, Counting(), batch_size=8))
    assert [len(batch["input_ids"]) for batch in batches] == [8, 8, 3]
    assert [[int(id_) for id_ in row if id_ >= 0] for batch in batches for row in batch["input_ids"]] == expected


@pytest.mark.parametrize("count", [1, 4, 9])
def test_samples_are_batches_and_no_other_is_made(count):
    rows, collator = dataset(), Counting()
    whole = list(PaddedBatches(rows, Counting(), batch_size=8))
    found = PaddedBatches(rows, collator, batch_size=8).samples(count)
    places = np.linspace(0, 6, min(count, 7), dtype=int)
    assert len(collator.seen) == len(found) == len(places)
    for batch, place in zip(found, places, strict=True):
        np.testing.assert_array_equal(batch["input_ids"], whole[place]["input_ids"])


def test_columns_that_a_collator_does_not_see_are_not_read():
    seen = []

    class Spy(OnlyColumns):
        def __call__(self, rows: Any) -> Any:
            seen.extend(rows)
            return super().__call__(rows)

    list(PaddedBatches(dataset(), Spy(Counting(), ("input_ids", "group")), batch_size=8))
    assert {tuple(row) for row in seen} == {("input_ids",)}
    assert len(seen) == 50


def outputs_of(batches: PaddedBatches) -> Any:
    def forward(batch: Any) -> dict[str, Any]:
        return {"sums": np.where(batch["input_ids"] >= 0, batch["input_ids"], 0).sum(axis=1, keepdims=True)}

    return batches.outputs(forward, lambda output, batch: list(output["sums"][:, None]))


@pytest.mark.parametrize("most", [1, 40, 100, 10**9])
def test_a_limit_of_tokens_makes_smaller_batches_of_the_same_rows(most):
    rows, collator = dataset(), Counting()
    batches = PaddedBatches(rows, collator, batch_size=8, most_tokens=most)
    made = [batch["input_ids"] for batch in batches]
    shapes = [ids.shape for ids in made]
    assert len(batches) == len(made)
    assert all(count <= 8 and (count * tokens <= most or count == 1) for count, tokens in shapes)
    for ids, following in itertools.pairwise(made):
        assert len(ids) == 8 or (len(ids) + 1) * (following[0] >= 0).sum() > most  # no room for the next row
    plain = outputs_of(PaddedBatches(rows, Counting(), batch_size=8))
    found = outputs_of(PaddedBatches(rows, Counting(), batch_size=8, most_tokens=most))
    np.testing.assert_array_equal(found.values, plain.values)


def test_the_limit_is_of_labels_where_rows_have_them():
    columns = {"input_ids": [[1] * (1 if row == 3 else 2) for row in range(20)]}
    columns["labels"] = [[1] * (40 if row == 3 else 5) for row in range(20)]
    batches = PaddedBatches(Dataset.from_dict(columns), Counting(), batch_size=8, most_tokens=80)
    assert [batch["labels"].shape for batch in batches] == [(2, 40), (8, 5), (8, 5), (2, 5)]


@pytest.mark.parametrize(("predicts", "sizes"), [("likelihood", [2] * 5), ("class", [8, 2])])
def test_a_vocabulary_limits_the_batches_of_language_models(monkeypatch, predicts, sizes):
    monkeypatch.setattr(build_rows, "_LOGITS", 1000)
    recipe = SimpleNamespace(evaluation=SimpleNamespace(batch_size=8))
    parts = build_rows.ScoredRows(recipe)
    parts.__dict__["task"] = SimpleNamespace(predicts=predicts, collator=lambda tokenizer, train: Counting())
    parts.__dict__["tokenizer"] = range(100)  # tokens: 10 of them fit, two rows of 4
    rows = Dataset.from_dict({"input_ids": [[1, 2, 3, 4]] * 10})
    assert [len(batch["input_ids"]) for batch in parts.batches(rows)] == sizes
