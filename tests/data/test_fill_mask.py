"""Fill-mask: which tokens are hidden, when, and how it is scored."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny_language import decoder_tokenizer, texts
from tiny_models import tiny_model
from tiny_tokenizers import CORPUS, tiny_tokenizer
from transformers import BertForMaskedLM, TrainingArguments

from distil_nlp.data.read import RawData
from distil_nlp.data.tasks import FillMask
from distil_nlp.errors import ModelError
from distil_nlp.evaluation.metrics import compute_metrics
from distil_nlp.evaluation.quality import PaddedBatches
from distil_nlp.export import torch_forward
from distil_nlp.recipe.tasks import FillMaskSection
from distil_nlp.training import DistillationTrainer

TOKENIZER = tiny_tokenizer("wordpiece")
CLS, SEP, MASK = TOKENIZER.cls_token_id, TOKENIZER.sep_token_id, TOKENIZER.mask_token_id
TEXTS = [text for text in CORPUS if text] * 12


def make_task(max_length: int = 32, **settings: Any) -> FillMask:
    values = {"name": "fill-mask", "dataset": "here", "max_length": max_length, **settings}
    return FillMask(FillMaskSection.model_validate(values))


def tokenized(task: FillMask, given: list[str] = TEXTS, tokenizer: Any = TOKENIZER) -> Dataset:
    return task.tokenize(Dataset.from_dict({"text": given}), tokenizer)


def collated(task: FillMask, rows: Dataset, *, train: bool, order: Any = None) -> dict[str, torch.Tensor]:
    return task.collator(TOKENIZER, train=train)([rows[int(row)] for row in order or range(len(rows))])


def bert(**config: Any) -> BertForMaskedLM:
    return tiny_model("bert", "masked", vocab_size=len(TOKENIZER), initializer_range=0.3, **config)


def test_rows_are_the_texts_as_the_tokenizer_has_them() -> None:
    rows = tokenized(make_task(max_length=9), TEXTS[:5])
    assert rows["input_ids"][:] == TOKENIZER(TEXTS[:5], truncation=True, max_length=9)["input_ids"]
    for row in rows:
        special = TOKENIZER.get_special_tokens_mask(row["input_ids"], already_has_special_tokens=True)
        assert row["special_tokens_mask"] == special


def test_empty_texts_are_dropped() -> None:
    task, dropped = make_task(text="line"), Counter()
    rows = task.clean(RawData({"train": Dataset.from_dict({"line": ["a", " ", None, ""]})}), dropped)["train"]
    assert rows["text"][:] == ["a"]
    assert dropped == {"empty text": 3}


@pytest.mark.parametrize("kind", ["wordpiece", "byte_level_bpe", "unigram"])
def test_packing_keeps_every_token_once_between_special_tokens(kind: str) -> None:
    tokenizer, given = tiny_tokenizer(kind), texts(1200)
    rows = tokenized(make_task(max_length=16, pack=True), given, tokenizer)
    lengths = Counter(map(len, rows["input_ids"]))
    assert max(lengths) == 16
    assert sum(count for length, count in lengths.items() if length < 16) <= 2
    assert all(ids[0] == CLS and ids[-1] == SEP for ids in rows["input_ids"])
    kept = [id_ for ids in rows["input_ids"] for id_ in ids[1:-1] if id_ != SEP]
    bare = tokenizer(given, add_special_tokens=False)["input_ids"]
    assert kept == [id_ for ids in bare for id_ in ids]
    inner = [id_ for ids in rows["input_ids"] for id_ in ids[1:-1]]
    assert inner.count(SEP) == 999 + 199  # between texts, of which 1,000 are mapped at a time


def test_in_training_other_tokens_are_hidden_in_each_batch_and_in_evaluation_the_same() -> None:
    task = make_task()
    rows = tokenized(task)
    first, second = (collated(task, rows, train=True) for _ in range(2))
    assert not torch.equal(first["labels"], second["labels"])
    one, again = (collated(task, rows, train=False) for _ in range(2))
    backwards = collated(task, rows, train=False, order=range(len(rows) - 1, -1, -1))
    for name in ("input_ids", "labels"):
        assert torch.equal(one[name], again[name])
        assert torch.equal(one[name], backwards[name].flip(0))


def test_what_evaluation_hides_follows_from_the_row_alone() -> None:
    task = make_task()
    rows = tokenized(task)
    alone = [task.collator(TOKENIZER, train=False).hide(row)[1].tolist() for row in rows]
    torch.manual_seed(1)
    batch = collated(task, rows, train=False)["labels"].tolist()
    assert [labels[: len(one)] for one, labels in zip(alone, batch, strict=True)] == alone
    assert len({tuple(labels) for labels in alone}) == len({tuple(row["input_ids"]) for row in rows})


@pytest.mark.parametrize("probability", [0.15, 0.5])
def test_what_is_hidden_is_what_bert_hides(probability: float) -> None:
    task = make_task(mask_probability=probability)
    rows = tokenized(task, TEXTS * 40)
    batch = collated(task, rows, train=True)
    hidden, ids = batch["labels"] != -100, batch["input_ids"]
    original = [row["input_ids"] for row in rows]
    padded = torch.tensor([row + [0] * (ids.shape[1] - len(row)) for row in original])
    special = torch.isin(padded, torch.tensor(TOKENIZER.all_special_ids))
    assert not (hidden & special).any()
    assert torch.equal(batch["labels"][hidden], padded[hidden])
    assert torch.equal(ids[~hidden], padded[~hidden])
    assert hidden.sum() / (~special).sum() == pytest.approx(probability, rel=0.06)
    assert (ids[hidden] == MASK).float().mean() == pytest.approx(0.8, rel=0.05)
    kept = (ids[hidden] == padded[hidden]).float().mean()
    assert 0.07 < kept < 0.14
    assert torch.equal(
        batch["attention_mask"].bool(), torch.arange(ids.shape[1]) < torch.tensor([[len(r)] for r in original])
    )


@pytest.mark.parametrize("pack", [False, True])
def test_whole_words_are_hidden_or_seen(pack: bool) -> None:
    task = make_task(whole_words=True, pack=pack, mask_probability=0.3)
    rows = tokenized(task, texts(40))
    several = 0
    for train in (True, False):
        batch = collated(task, rows, train=train)
        for row, ids, labels in zip(rows, batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
            words: list[list[int]] = []
            for place, id_ in enumerate(row["input_ids"]):
                if not TOKENIZER.convert_ids_to_tokens(id_).startswith("##") or place == 1:
                    words.append([])
                words[-1].append(place)
            for word in words:
                hidden = {labels[place] != -100 for place in word}
                assert len(hidden) == 1
                assert hidden == {False} or all(ids[place] == MASK for place in word)
                several += hidden == {True} and len(word) > 1
    assert several > 10


def test_tokenizers_that_cannot_hide_are_refused() -> None:
    with pytest.raises(ModelError, match="no mask token"):
        tokenized(make_task(), tokenizer=decoder_tokenizer())
    with pytest.raises(ModelError, match="do not show where a word ends"):
        tokenized(make_task(whole_words=True), tokenizer=tiny_tokenizer("byte_fallback_bpe"))


def test_the_perplexity_is_that_of_the_models_own_loss() -> None:
    """One row at a time, without padding, by transformers' loss, on what the fixed collator hides."""
    task, model = make_task(), bert()
    rows = tokenized(task, texts(30))
    cost, right, tokens = 0.0, 0, 0
    for place in range(len(rows)):
        batch = collated(task, rows, train=False, order=[place])
        count = int((batch["labels"] != -100).sum())
        with torch.no_grad():
            output = model(input_ids=batch["input_ids"], labels=batch["labels"])
        cost, tokens = cost + float(output.loss) * count if count else cost, tokens + count
        right += int((output.logits.argmax(-1) == batch["labels"]).sum())
    batches = PaddedBatches(rows, task.collator(TOKENIZER, train=False), batch_size=8)
    outputs = batches.outputs(torch_forward(model), task.keep)
    assert outputs.values.shape == (tokens, 2)
    references = task.references(rows, rows)
    assert references.tolist() == outputs.counts.tolist()
    scores = compute_metrics(task.metrics, takes=task.predicts)(task.predictions(outputs, rows, rows), references)
    assert scores["perplexity"] == pytest.approx(np.exp(cost / tokens), rel=1e-5)
    assert scores["masked_accuracy"] == pytest.approx(right / tokens)


def test_a_model_that_has_learned_nothing_is_weak() -> None:
    task = make_task()
    rows = tokenized(task, texts(60))
    batches = PaddedBatches(rows, task.collator(TOKENIZER, train=False), batch_size=16)
    outputs = batches.outputs(torch_forward(tiny_model("bert", "masked", vocab_size=len(TOKENIZER))), task.keep)
    assert "always giving the commonest token" in str(task.weakness(outputs, rows))
    knowing = batches.outputs(lambda batch: {"logits": 9.0 * np.eye(len(TOKENIZER))[batch["labels"]]}, task.keep)
    assert task.weakness(knowing, rows) is None


@pytest.mark.parametrize("whole_words", [False, True])
def test_a_trainer_hides_anew_to_train_and_the_same_to_evaluate(whole_words: bool, tmp_path: Path) -> None:
    """The columns that masking reads survive the trainer, and its evaluations can be compared."""
    task = make_task(whole_words=whole_words)
    rows = tokenized(task, texts(24))
    trainer = DistillationTrainer(
        model=bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        args=TrainingArguments(str(tmp_path), max_steps=2, report_to="none", save_strategy="no", disable_tqdm=True),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=TOKENIZER,
        data_collator=task.collator(TOKENIZER),
        eval_collator=task.collator(TOKENIZER, train=False),
    )
    before, again = (trainer.evaluate()["eval_loss"] for _ in range(2))
    assert before == again
    batches = PaddedBatches(rows, task.collator(TOKENIZER, train=False), batch_size=8)
    outputs = batches.outputs(torch_forward(trainer.model.eval()), task.keep)
    assert np.isfinite(before)
    assert before == pytest.approx(float(np.concatenate(outputs.by_row())[:, 0].mean()), rel=1e-4)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] != before
