"""Text to text: tokenized rows, what models write, and targets that a teacher writes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from tiny_seq2seq import build_tokenizer, tiny_seq2seq
from transformers.utils import logging

from distil_nlp.data.batches import Lists
from distil_nlp.data.read import RawData
from distil_nlp.data.tasks import Text2TextGeneration
from distil_nlp.data.teacher_targets import TargetFile
from distil_nlp.data.writing import writer
from distil_nlp.errors import DataError
from distil_nlp.evaluation.quality import TorchPredictor
from distil_nlp.recipe.tasks import Text2TextGenerationSection

TOKENIZER = build_tokenizer()
SOURCES = ["the film was good", "we saw a bad scene in the film", "music", "the plot was very bad then"]
TARGETS = ["they liked it", "nobody liked it at all", "it", "nobody liked it"]


def make_task(**settings: Any) -> Text2TextGeneration:
    values = {"name": "text2text-generation", "dataset": "here", "max_length": 12, "max_target_length": 6, **settings}
    return Text2TextGeneration(Text2TextGenerationSection.model_validate(values))


def clean_rows() -> Dataset:
    return Dataset.from_dict({"source": SOURCES, "target": TARGETS})


def model_of(family: str = "t5") -> Any:
    """A random model of one block each, with weights so large that it does not write the same for every row."""
    shallow = {"num_layers": 1} if family == "t5" else {"encoder_layers": 1, "decoder_layers": 1}
    model = tiny_seq2seq(family, vocab_size=len(TOKENIZER), tie_word_embeddings=False, **shallow)
    dice = torch.Generator().manual_seed(0)
    for _, weight in sorted(model.named_parameters()):
        if weight.dim() > 1:
            weight.data.normal_(0.0, 0.7, generator=dice)
    return model


def outputs_of(task: Text2TextGeneration, model: Any, rows: Dataset, size: int = 3) -> Lists:
    forward, collate, kept = task.forward(TorchPredictor(model), TOKENIZER), task.collator(TOKENIZER, train=False), []
    for start in range(0, len(rows), size):
        batch = {
            k: v.numpy() for k, v in collate([rows[i] for i in range(start, min(start + size, len(rows)))]).items()
        }
        kept += task.keep(forward(batch), batch)
    return Lists(np.concatenate(kept), np.array([len(each) for each in kept]))


def alone(model: Any, ids: list[int], **how: Any) -> list[int]:
    """What transformers itself writes for one row, without padding."""
    made = model.generate(torch.tensor([ids]), **{"do_sample": False, "num_beams": 1, "max_new_tokens": 6, **how})
    return made[0, 1:].tolist()


def ended(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


# ---- rows ----


def test_rows_without_source_or_target_are_left_out_and_counted() -> None:
    raw = Dataset.from_dict({"a": ["x ", "", None, "y"], "b": ["1", "2", "3", "  "]})
    dropped: Counter[str] = Counter()
    task = make_task(source="a", target="b")
    rows = task.clean(RawData({"train": raw}), dropped)["train"]
    assert rows.to_dict() == {"source": ["x "], "target": ["1"]}
    assert dropped == {"empty source": 2, "no target": 1}
    assert task.texts(clean_rows()) == [(source,) for source in SOURCES]
    with pytest.raises(DataError, match="`target`"):
        make_task(source="a", target="b").clean(RawData({"train": Dataset.from_dict({"a": ["x"], "b": [1]})}), dropped)


def test_tokenized_rows() -> None:
    rows = make_task(prefix="review : ", max_length=5, max_target_length=4).tokenize(clean_rows(), TOKENIZER)
    assert set(rows.column_names) == {"input_ids", "attention_mask", "labels"}
    words = [TOKENIZER.convert_ids_to_tokens(ids) for ids in rows["input_ids"]]
    assert words[0] == ["review", ":", "the", "film", "</s>"]
    assert words[2] == ["review", ":", "music", "</s>"]
    assert TOKENIZER.convert_ids_to_tokens(rows["labels"][1]) == ["nobody", "liked", "it", "</s>"]
    batch = make_task().collator(TOKENIZER)([rows[1], rows[2]])
    assert batch["input_ids"].shape == (2, 5)
    assert batch["attention_mask"].tolist()[1] == [1, 1, 1, 1, 0]
    assert batch["labels"].tolist()[1][2:] == [-100, -100]


def test_both_lengths_must_have_positions() -> None:
    assert make_task().lengths == {"max_length": 12, "max_target_length": 6}


# ---- what is written ----


@pytest.mark.parametrize(("family", "num_beams"), [("t5", 1), ("bart", 3), ("m2m_100", 1)])
def test_texts_are_those_that_transformers_writes_for_each_row_alone(family: str, num_beams: int) -> None:
    task, model = make_task(generate={"num_beams": num_beams}), model_of(family)
    rows = task.tokenize(clean_rows(), TOKENIZER)
    texts = task.predictions(outputs_of(task, model, rows), rows, clean_rows())
    expected = [
        TOKENIZER.decode(alone(model, ids, num_beams=num_beams), skip_special_tokens=True) for ids in rows["input_ids"]
    ]
    assert texts == [text.strip() for text in expected]
    assert len(set(texts)) > 1
    assert task.references(rows, clean_rows()) == TARGETS


def test_outputs_are_saved_as_they_are(tmp_path: Path) -> None:
    task = make_task()
    texts = ["Käfer 北京 🙂", "", " it "]
    kept = task.keep({"texts": texts}, {})
    np.savez(tmp_path / "out.npz", values=np.concatenate(kept), counts=[len(each) for each in kept])
    with np.load(tmp_path / "out.npz", allow_pickle=False) as saved:
        assert task.predictions(Lists(**saved), clean_rows(), clean_rows()) == ["Käfer 北京 🙂", "", "it"]


def test_a_checkpoints_own_settings_stay_but_for_those_of_the_recipe(capfd: pytest.CaptureFixture[str]) -> None:
    model = model_of("bart")
    settings = {"min_length": 5, "no_repeat_ngram_size": 1, "early_stopping": True, "length_penalty": 2.0}
    settings |= {"num_beams": 4, "max_length": 30, "forced_bos_token_id": 0, "do_sample": True, "top_k": 3}
    model.generation_config.update(**settings)
    kept = model.generation_config
    task = make_task(generate={"max_new_tokens": 7})
    rows = task.tokenize(clean_rows(), TOKENIZER)
    logging.set_verbosity_warning()
    capfd.readouterr()
    write = writer(model, num_beams=1, max_new_tokens=7)
    written = write(task.collator(TOKENIZER)([rows[row] for row in range(4)]))
    beams = writer(model, num_beams=2, max_new_tokens=7)(task.collator(TOKENIZER)([rows[0]]))
    assert capfd.readouterr().err == ""
    assert model.generation_config is kept
    assert kept.to_dict().items() >= settings.items()
    how = {"max_new_tokens": 7, "max_length": None, "top_k": None}
    for tokens, ids in zip(written, rows["input_ids"], strict=True):
        assert tokens == ended(alone(model, ids, early_stopping=False, length_penalty=1.0, **how), 2)
        assert tokens[0] == 0
        assert 4 <= len(tokens) <= 7
        assert len(set(tokens)) == len(tokens)
    assert beams[0] == ended(alone(model, rows["input_ids"][0], num_beams=2, **how), 2)


def test_settings_come_back_after_an_error() -> None:
    model = model_of()
    kept = model.generation_config
    with pytest.raises(KeyError):
        writer(model, num_beams=1, max_new_tokens=3)({"input_ids": torch.tensor([[3, 4]])})
    broken = {"input_ids": torch.tensor([[10**6]]), "attention_mask": torch.tensor([[1]])}
    with pytest.raises(IndexError):
        writer(model, num_beams=1, max_new_tokens=3)(broken)
    assert model.generation_config is kept


def test_as_many_tokens_as_are_timed() -> None:
    model = model_of()
    batch = {"input_ids": torch.tensor([[3, 4, 5], [6, 7, 8]]), "attention_mask": torch.ones(2, 3)}
    write = writer(model, num_beams=1, max_new_tokens=9, exactly=True)
    assert [len(row) for row in write(batch)] == [9, 9]


def test_likelihood_in_the_place_of_texts() -> None:
    task, model = make_task(metrics=["perplexity", "next_token_accuracy"]), model_of("bart")
    rows = task.tokenize(clean_rows(), TOKENIZER)
    assert (task.predicts, make_task().predicts) == ("likelihood", "text")
    figures = task.predictions(outputs_of(task, model, rows), rows, clean_rows())
    for row, (cost, right) in zip(rows, figures, strict=True):
        labels = torch.tensor(row["labels"])
        decoder = torch.tensor([[model.config.decoder_start_token_id, *row["labels"][:-1]]])
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]]), decoder_input_ids=decoder).logits[0]
        assert cost == pytest.approx(F.cross_entropy(logits, labels, reduction="sum").item(), rel=1e-4)
        assert right == (logits.argmax(-1) == labels).sum()
    assert task.references(rows, clean_rows()).tolist() == [len(labels) for labels in rows["labels"]]
    assert "commonest token" in str(task.weakness(outputs_of(task, model, rows), rows))


def test_a_teacher_that_writes_one_text_for_all_has_learned_nothing() -> None:
    task = make_task()
    rows = task.tokenize(clean_rows(), TOKENIZER)

    def weakness(texts: list[str], rows: Dataset) -> str | None:
        kept = task.keep({"texts": texts}, {})
        return task.weakness(Lists(np.concatenate(kept), np.array([len(each) for each in kept])), rows)

    assert "On 4 validation rows it writes the same text" in str(weakness(["it"] * 4, rows))
    assert weakness([""] * 4, rows) is not None
    assert weakness(["it", "it", "it", "at"], rows) is None
    assert weakness(["it"] * 2, rows.select([0, 0])) is None  # where all targets are one


# ---- targets of a teacher ----


def distilled(task: Text2TextGeneration, folder: Path, teacher: Any = None, fingerprint: str = "a") -> Dataset:
    return task.distilled(
        task.tokenize(clean_rows(), TOKENIZER),
        TOKENIZER,
        teacher=teacher or model_of("bart"),
        fingerprint=lambda: fingerprint,
        folder=folder,
        batch_size=3,
    )


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "teacher_targets.jsonl").read_text(encoding="utf-8").splitlines()]


def test_targets_are_what_the_teacher_writes_for_each_row_alone(tmp_path: Path) -> None:
    task, teacher = make_task(targets="teacher", target_beams=3), model_of("bart")
    before = task.tokenize(clean_rows(), TOKENIZER)
    after = distilled(task, tmp_path, teacher)
    assert after["input_ids"][:] == before["input_ids"][:]
    assert after.features["labels"] == before.features["labels"]
    expected = [ended(alone(teacher, ids, num_beams=3), 2) for ids in before["input_ids"]]
    assert after["labels"][:] == expected
    told = {line["row"]: line for line in lines_of(tmp_path)[1:]}
    assert [told[row]["tokens"] for row in range(4)] == expected
    assert told[1]["text"] == TOKENIZER.decode(expected[1], skip_special_tokens=True)
    assert distilled(make_task(), tmp_path / "none")["labels"][:] == before["labels"][:]
    assert not (tmp_path / "none").exists()


class InterruptionError(Exception):
    pass


def test_nothing_is_written_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, teacher = make_task(targets="teacher"), model_of("bart")
    expected = distilled(task, tmp_path / "whole", teacher)["labels"][:]
    asked: list[int] = []
    generate = type(teacher).generate

    def watched(self: Any, input_ids: Any, **kwargs: Any) -> Any:
        if len(asked) == 1 and not (tmp_path / "go on").exists():
            raise InterruptionError
        asked.append(len(input_ids))
        return generate(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(type(teacher), "generate", watched)
    folder = tmp_path / "cut"
    with pytest.raises(InterruptionError):
        distilled(task, folder, teacher)
    with (folder / "teacher_targets.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"row": 2, "tokens": [7, 8')  # as a full disk leaves it
    (tmp_path / "go on").touch()
    assert distilled(task, folder, teacher)["labels"][:] == expected
    assert asked == [3, 1]
    assert len(lines_of(folder)) == 5
    assert distilled(task, folder, teacher)["labels"][:] == expected
    assert asked == [3, 1]


@pytest.mark.parametrize("change", ["teacher", "beams", "length", "rows", "generation"])
def test_targets_of_something_else_are_set_aside(tmp_path: Path, change: str) -> None:
    settings: dict[str, Any] = {"targets": "teacher", "target_beams": 2}
    distilled(make_task(**settings), tmp_path)
    first, teacher = lines_of(tmp_path), model_of("bart")
    settings |= {"beams": {"target_beams": 3}, "length": {"max_target_length": 5}, "rows": {"prefix": "a "}}.get(
        change, {}
    )
    if change == "generation":
        teacher.generation_config.min_length = 4
    distilled(make_task(**settings), tmp_path, teacher, fingerprint="b" if change == "teacher" else "a")
    assert lines_of(tmp_path)[0] != first[0]
    assert len(lines_of(tmp_path)) == 5
    aside = (tmp_path / "teacher_targets.outdated.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in aside] == first


@pytest.mark.parametrize("left", ["", '{"belongs_to"', '{"belongs_to": "mine"}', "no json at all\n"])
def test_a_file_that_was_hardly_begun(tmp_path: Path, left: str) -> None:
    path = tmp_path / "targets.jsonl"
    path.write_text(left, encoding="utf-8")
    file = TargetFile(path, belongs_to="mine", decode=str)
    assert file.read() == {}
    file.add({3: [1, 2]})
    assert {row: tokens.tolist() for row, tokens in file.read().items()} == {3: [1, 2]}
