"""Reading, cleaning and splitting data, from small files of every format."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets.exceptions import DatasetGenerationError
from tiny_files import load, rows_of, write, write_csv, write_jsonl

from distil_nlp.data.split import SPLITS, assign_splits, content_key, text_key
from distil_nlp.errors import DataError, RecipeError

FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}


def test_a_folder_with_splits_keeps_them(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows_of(10))
    write_csv(tmp_path / "dev.csv", rows_of(4, 10))
    write_jsonl(tmp_path / "test.jsonl", rows_of(6, 14))
    (tmp_path / "README.md").write_text("read me")
    splits, summary = load(tmp_path)
    assert summary.rows == {"train": 10, "validation": 4, "test": 6}
    assert summary.carved == []
    assert splits["test"][0] == {"text": "sentence 14", "label": 0}
    assert summary.majority_baseline == 0.5


def test_shards_are_read_in_order(tmp_path: Path) -> None:
    for shard in (1, 0):
        write_jsonl(tmp_path / f"train-0000{shard}-of-00002.jsonl", rows_of(5, 5 * shard))
    write_jsonl(tmp_path / "valid.jsonl", rows_of(4, 10))
    write_jsonl(tmp_path / "test.jsonl", rows_of(6, 14))
    assert load(tmp_path).splits["train"]["text"][:] == [f"sentence {i}" for i in range(10)]


def test_missing_splits_are_carved_from_the_training_rows_only(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows_of(400))
    write_jsonl(tmp_path / "test.jsonl", rows_of(7, 400))
    splits, summary = load(tmp_path)
    assert summary.carved == ["validation"]
    assert len(splits["test"]) == 7
    assert len(splits["train"]) + len(splits["validation"]) == 400
    assert 20 <= len(splits["validation"]) <= 60
    assert not set(splits["train"]["text"]) & set(splits["validation"]["text"])
    (tmp_path / "test.jsonl").unlink()
    assert load(tmp_path).summary.carved == ["validation", "test"]


def test_folders_that_cannot_be_read(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data.jsonl", rows_of(10))
    with pytest.raises(DataError, match=r"only data\.jsonl"):
        load(tmp_path)
    write_jsonl(tmp_path / "train.jsonl", rows_of(10))
    write_jsonl(tmp_path / "dev.jsonl", rows_of(10))
    write_jsonl(tmp_path / "validation.jsonl", rows_of(10))
    with pytest.raises(DataError, match=r"dev\.jsonl, validation\.jsonl"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_missing_column_names_the_near_match(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, rows_of(20))
    with pytest.raises(DataError, match=r"(?s)no column 'lable'.*Did you mean 'label'\? Known: label, text"):
        load(path, label="lable")
    with pytest.raises(DataError, match="no column 'pair'"):
        load(path, text_pair="pair")
    with pytest.raises(DataError, match="one column twice"):
        load(path, label="text")


def test_numbers_are_cut_into_classes(tmp_path: Path) -> None:
    rows = [{"text": f"t {i}", "label": value} for i, value in enumerate([-1.5, -0.1, 0, 0.0, 0.2, 3] * 20)]
    splits, summary = load(write_csv(tmp_path / "a.csv", rows), classes={"positive": "> 0", "negative": "< 0"})
    assert summary.dropped == {"no class": 40}
    assert summary.label_names == ["positive", "negative"]
    found = {row["text"]: row["label"] for split in splits.values() for row in split}
    assert found == {row["text"]: int(row["label"] < 0) for row in rows if row["label"]}


def test_rows_without_text_or_label_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [
        *rows_of(60),
        {"text": "", "label": "good"},
        {"text": "  \t", "label": "good"},
        {"text": None, "label": "bad"},
        {"text": "something", "label": None},
        {"text": "something else", "label": " "},
    ]
    splits, summary = load(write_jsonl(tmp_path / "a.jsonl", rows))
    assert summary.dropped == {"empty text": 3, "no label": 2}
    assert sum(summary.rows.values()) == 60
    assert summary.label_names == ["bad", "good"]
    assert all(row["text"].strip() for split in splits.values() for row in split)


def test_text_must_be_text(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": i, "label": i % 2} for i in range(10)])
    with pytest.raises(DataError, match=r"(?s)not text.*Row 1 has 0"):
        load(path)


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)split of .* is empty.*train"):
        load(write_jsonl(tmp_path / "a.jsonl", rows_of(3)))
    write_jsonl(tmp_path / "d" / "train.jsonl", rows_of(10))
    write_jsonl(tmp_path / "d" / "dev.jsonl", rows_of(10, 10))
    write_jsonl(tmp_path / "d" / "test.jsonl", [{"text": "", "label": "good"}])
    with pytest.raises(DataError, match=r"(?s)The test split .* is empty.*1 with empty text.*test file"):
        load(tmp_path / "d")


def test_the_split_is_disjoint_and_independent_of_order(tmp_path: Path) -> None:
    texts = [f"A  Text {i % 300}" for i in range(600)] + [f"a text {i}\n" for i in range(300)]
    rows = [{"text": text, "label": i % 2} for i, text in enumerate(texts)]
    one, _ = load(write_jsonl(tmp_path / "one.jsonl", rows))
    other, _ = load(write_jsonl(tmp_path / "two.jsonl", rows[::-1]))
    normalised = {name: {" ".join(text.lower().split()) for text in one[name]["text"]} for name in SPLITS}
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not normalised[first] & normalised[second]
    for name in SPLITS:
        assert sorted(one[name]["text"]) == sorted(other[name]["text"])


def test_the_fractions_are_about_as_asked() -> None:
    keys = [text_key(f"text {i}") for i in range(20_000)]
    rows = assign_splits(keys, {"train": 0.7, "validation": 0.1, "test": 0.2})
    assert sorted(row for part in rows.values() for row in part) == list(range(20_000))
    for name, share in {"train": 0.7, "validation": 0.1, "test": 0.2}.items():
        deviation = math.sqrt(share * (1 - share) * 20_000)
        assert abs(len(rows[name]) - share * 20_000) < 4 * deviation


def test_pairs(tmp_path: Path) -> None:
    rows = [{"premise": f"p {i % 5}", "claim": f"c {i}", "label": i % 2} for i in range(60)]
    splits, _ = load(write_jsonl(tmp_path / "a.jsonl", rows), text="premise", text_pair="claim")
    assert set(splits["train"].column_names) == {"text", "text_pair", "label"}
    found = {row["text_pair"]: (row["text"], row["label"]) for split in splits.values() for row in split}
    assert found == {row["claim"]: (row["premise"], row["label"]) for row in rows}
    assert text_key("a", "b c") != text_key("a b", "c") != text_key("a b c")
    rows[0]["claim"] = ""
    assert load(write_jsonl(tmp_path / "b.jsonl", rows), text="premise", text_pair="claim").summary.dropped == {
        "empty text": 1
    }


def test_content_is_what_is_left_without_signs() -> None:
    same = ["It's  good.", "it 's good", "IT’S GOOD!", "ｉts good"]
    assert len({content_key(each) for each in same}) == 1
    different = ["its god", "हिंदी", "हिंद", ":-)", ":-(", "1.5", "", "e\u0301", "e", "\ud800"]
    assert len({content_key(each) for each in different}) == len(different)
    assert content_key("a", "b") != content_key("ab") != content_key("b", "a")
    assert content_key("e\u0301") == content_key("\u00e9")


def test_columns_may_have_each_others_names(tmp_path: Path) -> None:
    rows = [{"text_pair": f"first {i}", "text": f"second {i}", "label": i % 2} for i in range(60)]
    splits, _ = load(write_jsonl(tmp_path / "a.jsonl", rows), text="text_pair", text_pair="text")
    assert splits["train"][0]["text"].startswith("first")
    rows = [{"label": f"words {i}", "text": i % 2} for i in range(60)]
    splits, _ = load(write_jsonl(tmp_path / "b.jsonl", rows), text="label", label="text")
    assert splits["train"][0]["text"].startswith("words")


def test_texts_shared_by_given_splits_are_counted_and_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows_of(10))
    write_jsonl(tmp_path / "dev.jsonl", rows_of(5, 10))
    write_jsonl(tmp_path / "test.jsonl", [{"text": "Sentence  3", "label": "good"}, *rows_of(4, 9)])
    assert load(tmp_path).summary.shared_texts == {"train/test": 2, "validation/test": 3}
    assert "2 rows of test have a text that is in train too" in caplog.text


def test_secret_test_labels_are_left_out(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    for name, count in (("train", 200), ("validation", 20), ("test", 30)):
        labels = [-1 if name == "test" else i % 2 for i in range(count)]
        texts = [f"{name} {i}" for i in range(count)]
        rows = Dataset.from_dict({"text": texts, "label": labels}, features=features)
        rows.to_parquet(str(tmp_path / f"{name}.parquet"))
    splits, summary = load(tmp_path)
    assert summary.carved == ["test"]
    assert all(text.startswith("train") for text in splits["test"]["text"])
    assert summary.label_names == ["bad", "good"]


def test_an_empty_split_of_the_data_is_not_one_to_make_larger(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows_of(60))
    write_jsonl(tmp_path / "test.jsonl", [{"text": "", "label": "good"}])
    with pytest.raises(DataError, match="give the test file rows"):
        load(tmp_path)


def test_label_names_beside_the_files(tmp_path: Path) -> None:
    for start, name in enumerate(SPLITS):
        rows = [{"text": f"{name} {i}", "label": (i + start) % 2} for i in range(3)]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    (tmp_path / "meta.json").write_text('{"labels": 2}')
    assert load(tmp_path).summary.label_names == ["0", "1"]
    (tmp_path / "meta.json").write_text('{"label_names": ["wrong", "right"]}')
    summary = load(tmp_path).summary
    assert summary.label_names == ["wrong", "right"]
    assert (summary.majority_label, summary.majority_baseline) == ("wrong", 2 / 3)
    for meta in ('{"label_names": ["only"]}', '{"label_names": "a"}', "{", '{"label_names": ["a", "a"]}'):
        (tmp_path / "meta.json").write_text(meta)
        with pytest.raises(DataError):
            load(tmp_path)


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise DatasetGenerationError("An error occurred") from OSError(28, "No space left on device")

    monkeypatch.setattr(datasets, "load_dataset", full)
    with pytest.raises(DataError, match=r"(?s)No space left.*HF_HOME"):
        load(write_jsonl(tmp_path / "a.jsonl", rows_of(10)))


def test_a_config_is_for_the_hub(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Only data sets on the Hub"):
        load(write_jsonl(tmp_path / "a.jsonl", rows_of(10)), config="sst2")


def test_a_wrong_rule_is_a_recipe_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        load(write_jsonl(tmp_path / "a.jsonl", rows_of(10)), classes={"a": "=> 0", "b": "< 0"})
