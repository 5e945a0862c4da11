"""Embeddings of texts: rows, batches, pooling and scores."""

from collections import Counter

import numpy as np
import pytest
from datasets import Dataset
from naive_relations import pool as naive_pool
from tiny_models import CONFIGS
from tiny_run import build_tokenizer
from transformers import AutoModel

from distil_nlp.data.batches import Lists
from distil_nlp.data.embedding import Embedding, embedding_files
from distil_nlp.data.read import RawData
from distil_nlp.data.tasks import TASKS
from distil_nlp.errors import DataError, ModelError
from distil_nlp.recipe.tasks import FeatureExtractionSection

NAME = "feature-extraction"
PAIRED = {"text": "one", "text_pair": "two", "score": "alike"}


def task(read_json=lambda name: None, **settings):
    section = FeatureExtractionSection(name=NAME, dataset="rows", max_length=8, **settings)
    return TASKS[NAME](section, read_json)


def raw(**splits):
    return RawData({name: Dataset.from_dict(columns) for name, columns in splits.items()})


def pairs(one, two, alike):
    return {"one": one, "two": two, "alike": alike}


# ---- rows ----


def test_plain_text_needs_nothing_else():
    dropped = Counter()
    rows = task(text="one").clean(raw(train={"one": ["good film", " ", None, "bad"]}), dropped)["train"]
    assert rows.to_dict() == {"text": ["good film", "bad"]}
    assert dropped == {"empty text": 2}


def test_rows_to_score_by_need_two_texts_and_a_score_and_rows_to_train_on_any_text():
    half = pairs(["good film", "bad", "", ""], ["the plot", "", "a scene", ""], ["4.5", None, "", ""])
    dropped = Counter()
    given = task(**PAIRED).clean(raw(train=half, validation=half, test=half), dropped)
    assert given["train"]["text"][:] == ["good film", "bad", ""]
    assert given["train"]["score"][:] == [4.5, None, None]
    assert given["test"].to_dict() == {"text": ["good film"], "text_pair": ["the plot"], "score": [4.5]}
    assert dropped == {"empty text": 7}
    carved = task(**PAIRED).clean(raw(train=half), Counter())
    assert carved["train"]["text"][:] == ["good film"]  # of which test rows will be taken


def test_rows_without_a_score_are_counted():
    dropped = Counter()
    rows = task(**PAIRED).clean(raw(train=pairs(["good", "bad"], ["film", "plot"], [1.0, None])), dropped)
    assert (len(rows["train"]), dropped) == (1, {"no score": 1})


def test_a_score_that_is_no_number_is_refused_with_the_key_to_correct():
    with pytest.raises(DataError, match="'very'") as error:
        task(**PAIRED).clean(raw(train=pairs(["good"], ["film"], ["very"])), Counter())
    assert "`score`" in error.value.fix


def test_each_text_is_tokenized_as_if_alone():
    tokenizer = build_tokenizer()
    rows = Dataset.from_dict({"text": ["good film", "", "bad"], "text_pair": ["the plot was bad", "a scene", None]})
    found = task(**PAIRED).tokenize(rows, tokenizer)
    texts = ["good film", "the plot was bad", "a scene", "bad"]
    assert found["input_ids"][:] == [tokenizer(text)["input_ids"] for text in texts]
    assert found["example"][:] == [0, 0, 1, 2]


def test_texts_are_cut():
    rows = Dataset.from_dict({"text": ["good " * 30]})
    assert len(task().tokenize(rows, build_tokenizer())["input_ids"][0]) == 8


def test_batches_hold_what_the_model_reads():
    tokenizer = build_tokenizer()
    rows = task(**PAIRED).tokenize(Dataset.from_dict({"text": ["good"], "text_pair": ["a film"]}), tokenizer)
    batch = task(**PAIRED).collator(tokenizer)(list(rows))
    assert set(batch) <= {"input_ids", "attention_mask", "token_type_ids"}
    assert batch["input_ids"].shape == (2, 4)


def test_pairs_are_one_text_for_the_split():
    rows = Dataset.from_dict({"text": ["a", "b"], "text_pair": ["c", None]})
    assert task(**PAIRED).texts(rows) == [("a", "c"), ("b", "")]
    assert task().texts(rows.remove_columns("text_pair")) == [("a",), ("b",)]


# ---- how embeddings are made ----


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Embedding("cls", normalize=True)),
        ({"pooling": "last"}, Embedding("last", normalize=True)),
        ({"normalize": False}, Embedding("cls", normalize=False)),
    ],
)
def test_the_recipe_overrides_the_teachers_folder(given, expected):
    files = embedding_files(Embedding("cls", normalize=True), width=4, max_length=8)
    assert task(files.get, **given).embedding == expected


def test_nothing_is_read_where_the_recipe_says_all():
    def refused(name):
        raise AssertionError(name)

    assert task(refused, pooling="mean", normalize=False).embedding == Embedding()
    assert task(pooling="last").embedding == Embedding("last", normalize=False)  # a plain model


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("normalize", [True, False])
def test_one_vector_a_row_is_kept_as_a_loop_over_tokens_makes_it(pooling, normalize, side):
    states = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    mask = mask if side == "right" else mask[:, ::-1].copy()
    kept = task(pooling=pooling, normalize=normalize).keep({"last_hidden_state": states}, {"attention_mask": mask})
    expected = naive_pool(states, mask, pooling)
    if normalize:
        expected = np.array([row / np.sqrt((row * row).sum()) for row in expected])
    assert [values.shape for values in kept] == [(1, 4)] * 3
    np.testing.assert_allclose(np.concatenate(kept), expected, rtol=1e-5, atol=1e-6)


# ---- scores ----


def outputs(vectors):
    return Lists(np.asarray(vectors, dtype=np.float32), np.ones(len(vectors), dtype=np.int64))


def test_the_prediction_of_a_pair_is_its_cosine():
    vectors = np.random.default_rng(1).normal(size=(6, 4))
    examples = Dataset.from_dict({"text": list("abc"), "text_pair": list("def"), "score": [1.0, 2.5, 0.0]})
    rows = Dataset.from_dict({"example": [0, 0, 1, 1, 2, 2]})
    scored = task(**PAIRED)
    expected = [sum(a * b) / np.sqrt(sum(a * a) * sum(b * b)) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    np.testing.assert_allclose(scored.predictions(outputs(vectors), rows, examples), expected, rtol=1e-5)
    assert scored.references(rows, examples).tolist() == [1.0, 2.5, 0.0]
    assert (scored.predicts, scored.scored_by_teacher, scored.metrics[0]) == ("number", False, "spearman")


def test_without_scores_the_vectors_are_the_predictions():
    plain, vectors = task(text_pair="two"), np.eye(3)
    np.testing.assert_array_equal(plain.predictions(outputs(vectors), None, None), vectors)
    assert (plain.predicts, plain.scored_by_teacher, plain.metrics[0]) == ("vector", True, "cosine_to_teacher")


def test_a_teacher_that_tells_no_text_from_another_is_weak():
    same = np.tile(np.random.default_rng(2).normal(size=4), (5, 1))
    assert "the same embedding" in task().weakness(outputs(same), range(5))
    assert "not all numbers" in task().weakness(outputs(np.full((5, 4), np.nan)), range(5))
    assert task().weakness(outputs(same + np.eye(5, 4) / 100), range(5)) is None


def test_a_student_of_another_width_needs_scores():
    narrow, wide = (AutoModel.from_config(CONFIGS["bert"](hidden_size=width)) for width in (16, 32))
    with pytest.raises(ModelError, match="16 wide, the teacher's 32"):
        task().check_student(narrow, wide)
    task().check_student(wide, wide)
    task(**PAIRED).check_student(narrow, wide)


def test_companions_are_of_the_students_width():
    model = AutoModel.from_config(CONFIGS["bert"](hidden_size=16))
    files = task(pooling="cls", normalize=True).companions(model)
    assert files["1_Pooling/config.json"]["word_embedding_dimension"] == 16
    assert [module["path"] for module in files["modules.json"]] == ["", "1_Pooling", "2_Normalize"]
