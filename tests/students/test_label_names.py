"""Labels that differ in nothing but their case are two labels, wherever names are compared."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_model
from transformers import BertConfig

from distil_nlp.data.align import align_labels
from distil_nlp.errors import ModelError
from distil_nlp.label_names import as_compared, names_by_id, unnamed
from distil_nlp.students.labels import with_labels
from distil_nlp.teachers import EnsembleTeacher
from distil_nlp.teachers.label_sets import label_columns

DIRTY = ("Yes", "no", "yes")


def test_case_counts_only_where_it_tells_two_apart() -> None:
    assert as_compared(["Yes", "NO"], ["yes", "No"]) == [("yes", "no"), ("yes", "no")]
    assert as_compared(DIRTY, ["yes", "no"]) == [DIRTY, ("yes", "no")]
    assert as_compared() == []
    assert unnamed(["LABEL_0", "LABEL_1"])
    assert not unnamed(["LABEL_0", "yes"])


def test_each_finds_its_own() -> None:
    assert label_columns(DIRTY, DIRTY, "Member 0").tolist() == [0, 1, 2]
    assert label_columns(("YES", "No"), ("no", "yes"), "Member 0").tolist() == [1, 0]
    with pytest.raises(ModelError, match="'YES'"):
        label_columns(("YES", "no"), DIRTY, "Member 0")


def test_a_head_that_has_them_is_left_as_it_is() -> None:
    model = tiny_model(id2label=dict(enumerate(DIRTY)), label2id={name: n for n, name in enumerate(DIRTY)})
    assert with_labels(model, DIRTY) is model
    turned = with_labels(model, DIRTY[::-1])
    assert torch.equal(turned.classifier.weight, model.classifier.weight.flip(0))
    assert EnsembleTeacher([model], labels=DIRTY)._columns[0].tolist() == [0, 1, 2]


def test_a_teacher_with_the_two_exchanged_is_refused() -> None:
    config = BertConfig(id2label={0: "us", 1: "US"}, label2id={"us": 0, "US": 1})
    align_labels(config, ["us", "US"])
    with pytest.raises(ModelError, match="the same in another order"):
        align_labels(config, ["US", "us"])


def test_names_come_in_the_order_of_their_ids() -> None:
    config = BertConfig(id2label={str(index): f"name {index}" for index in (10, 2, 0)})
    assert list(names_by_id(config).items()) == [(0, "name 0"), (2, "name 2"), (10, "name 10")]
    config.id2label = None
    assert names_by_id(config) == {}
