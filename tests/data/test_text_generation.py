"""Text generation: what is predicted of texts, completions and conversations, and how it is scored."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny_language import CHAT, FORGETFUL_CHAT, MARKED_CHAT, decoder_tokenizer, texts
from tiny_models import tiny_model
from tiny_tokenizers import tiny_tokenizer

from distil_nlp.data.read import RawData
from distil_nlp.data.tasks import TextGeneration
from distil_nlp.errors import DataError, ModelError, RecipeError
from distil_nlp.evaluation.metrics import METRICS, compute_metrics
from distil_nlp.evaluation.quality import PaddedBatches
from distil_nlp.export import torch_forward
from distil_nlp.recipe.tasks import TextGenerationSection

TOKENIZER = decoder_tokenizer()
END = TOKENIZER.eos_token_id
TALK = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "what does the dog do?"},
    {"role": "assistant", "content": "it barks"},
    {"role": "user", "content": "and the cat?"},
    {"role": "assistant", "content": "it purrs"},
]


def make_task(max_length: int = 32, **settings: Any) -> TextGeneration:
    values = {"name": "text-generation", "dataset": "here", "max_length": max_length, **settings}
    return TextGeneration(TextGenerationSection.model_validate(values))


def tokenized(task: TextGeneration, columns: dict[str, list[Any]], tokenizer: Any = TOKENIZER) -> Dataset:
    return task.tokenize(Dataset.from_dict(columns), tokenizer)


def predicted(row: dict[str, Any]) -> str:
    return TOKENIZER.decode([id_ for id_ in row["labels"] if id_ != -100])


def test_a_text_is_predicted_to_its_end() -> None:
    rows = tokenized(make_task(), {"text": ["the dog barks", "é🙂"]})
    for row, text in zip(rows, ["the dog barks", "é🙂"], strict=True):
        assert TOKENIZER.decode(row["input_ids"]) == text + "<|end|>"
        assert row["labels"] == row["input_ids"]


def test_a_text_that_is_cut_has_no_end() -> None:
    long = " ".join(texts(10))
    (row,) = tokenized(make_task(max_length=8), {"text": [long]})
    assert row["input_ids"] == TOKENIZER(long)["input_ids"][:8]


def test_an_end_that_the_tokenizer_adds_itself_is_not_doubled() -> None:
    adding = tiny_tokenizer("byte_level_bpe")
    (row,) = tokenized(make_task(), {"text": ["hug"]}, adding)
    assert row["input_ids"] == adding("hug")["input_ids"]


@pytest.mark.parametrize("max_length", [7, 32])
def test_packing_keeps_every_token_once(max_length: int) -> None:
    given = texts(2500)  # more than one batch of the mapping
    rows = tokenized(make_task(max_length=max_length, pack=True), {"text": given})
    expected = [id_ for text in given for id_ in [*TOKENIZER(text)["input_ids"], END]]
    assert [id_ for ids in rows["input_ids"] for id_ in ids] == expected
    lengths = Counter(map(len, rows["input_ids"]))
    assert max(lengths) == max_length
    assert sum(count for length, count in lengths.items() if length < max_length) <= 3
    assert rows["labels"][:] == rows["input_ids"][:]


def test_the_end_of_a_text_counts_though_padding_has_its_id() -> None:
    task = make_task()
    rows = tokenized(task, {"text": ["the dog barks", "hum"]})
    batch = task.collator(TOKENIZER)([rows[0], rows[1]])
    for place, row in enumerate(rows):
        length, width = len(row["input_ids"]), batch["input_ids"].shape[1]
        assert batch["labels"][place].tolist() == row["labels"] + [-100] * (width - length)
        assert batch["attention_mask"][place].tolist() == [1] * length + [0] * (width - length)
        assert batch["labels"][place, length - 1] == END == TOKENIZER.pad_token_id


def test_batches_are_padded_behind_the_text_whatever_the_tokenizer_says() -> None:
    left = decoder_tokenizer()
    left.padding_side = "left"
    batch = make_task().collator(left)(
        [{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}, {"input_ids": [8], "labels": [8]}]
    )
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, END, END]]
    assert batch["labels"].tolist() == [[5, 6, 7], [8, -100, -100]]


@pytest.mark.parametrize("separator", ["", "\n", " => "])
def test_of_a_prompt_nothing_is_predicted(separator: str) -> None:
    task = make_task(prompt="question", completion="answer", separator=separator)
    prompts, completions = ["what hums?", "  which 🙂 "], [" the bee", "naïve\n cats "]
    raw = RawData({"train": Dataset.from_dict({"question": prompts, "answer": completions})})
    clean = task.clean(raw, Counter())["train"]
    rows = task.tokenize(clean, TOKENIZER)
    for row, prompt, completion in zip(rows, prompts, completions, strict=True):
        assert TOKENIZER.decode(row["input_ids"]) == prompt + separator + completion + "<|end|>"
        said = predicted(row)
        assert said.endswith(completion + "<|end|>")
        assert len(said) - len(completion + "<|end|>") < 4  # of a token that reaches over both
        assert all(label in (-100, id_) for id_, label in zip(row["input_ids"], row["labels"], strict=True))


def test_a_prompt_that_leaves_no_room_is_counted_and_all_of_them_are_an_error(caplog: pytest.LogCaptureFixture) -> None:
    task = make_task(max_length=8, prompt="prompt", completion="completion")
    long = "a disappointing, overlong sequel"
    rows = tokenized(task, {"prompt": ["the", long], "completion": [" dog", " cat"]})
    assert task.references(rows, rows).tolist()[1] == 0
    assert "1 rows have nothing to predict" in caplog.text
    with pytest.raises(DataError, match="none of 1 rows"):
        tokenized(task, {"prompt": [long], "completion": ["cat"]})


@pytest.mark.parametrize("template", [CHAT, MARKED_CHAT], ids=["turns", "generation"])
def test_what_an_assistant_says_is_predicted_and_nothing_else(template: str) -> None:
    tokenizer = decoder_tokenizer(template)
    (row,) = tokenized(make_task(max_length=200, messages="messages"), {"messages": [TALK]}, tokenizer)
    assert tokenizer.decode(row["input_ids"]) == tokenizer.apply_chat_template(TALK, tokenize=False)
    assert predicted(row) == "it barks<|end|>it purrs<|end|>"


def test_a_template_that_rewrites_earlier_turns_is_refused() -> None:
    with pytest.raises(ModelError, match="of the first 3 messages is not how") as error:
        tokenized(make_task(messages="messages"), {"messages": [TALK]}, decoder_tokenizer(FORGETFUL_CHAT))
    assert "{% generation %}" in str(error.value.fix)


def test_a_tokenizer_without_a_template_or_an_end_is_refused() -> None:
    with pytest.raises(ModelError, match="no chat template"):
        tokenized(make_task(messages="messages"), {"messages": [TALK]}, decoder_tokenizer(None))
    endless = decoder_tokenizer()
    endless.eos_token = None
    with pytest.raises(ModelError, match="no end-of-text token"):
        tokenized(make_task(), {"text": ["the dog"]}, endless)


def test_rows_that_cannot_be_learned_from_are_dropped() -> None:
    task, dropped = make_task(messages="talk"), Counter()
    talks = [TALK, [], None, TALK[:2], [{"role": "assistant", "content": "it barks"}]]
    rows = task.clean(RawData({"train": Dataset.from_dict({"talk": talks})}), dropped)["train"]
    assert (len(rows), dropped) == (1, {"no answer of an assistant": 4})
    assert task.texts(rows) == [tuple(said["content"] for said in TALK)]
    task, dropped = make_task(prompt="prompt", completion="completion"), Counter()
    pairs = Dataset.from_dict({"prompt": ["a", "  ", "b"], "completion": ["c", "d", None]})
    assert len(task.clean(RawData({"train": pairs}), dropped)["train"]) == 1
    assert dropped == {"empty text": 2}


def test_a_column_without_conversations_is_an_error() -> None:
    with pytest.raises(DataError, match="does not hold conversations"):
        make_task(messages="talk").clean(RawData({"train": Dataset.from_dict({"talk": ["hello"]})}), Counter())


@pytest.mark.parametrize(
    "settings",
    [
        {"prompt": "a"},
        {"text": "a", "messages": "b"},
        {"prompt": "a", "completion": "b", "pack": True},
        {"text": "a", "separator": "\n"},
    ],
    ids=str,
)
def test_columns_that_do_not_go_together_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        make_task(**settings)


def test_without_columns_the_text_column_is_read() -> None:
    assert make_task().columns == {"text": "text"}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_perplexity_is_that_of_the_models_own_loss(family: str) -> None:
    """One row at a time, without padding, by transformers' loss."""
    task = make_task(prompt="prompt", completion="completion")
    given = {"prompt": texts(13, seed=1), "completion": [f" {text}" for text in texts(13, seed=2)]}
    rows = tokenized(task, given)
    model = tiny_model(family, "next_token", vocab_size=len(TOKENIZER), initializer_range=0.3)
    cost, right, tokens = 0.0, 0, 0
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        count = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            output = model(input_ids=ids, labels=labels)
        cost, tokens = cost + float(output.loss) * count if count else cost, tokens + count
        right += int((output.logits[:, :-1].argmax(-1) == labels[:, 1:]).sum())
    outputs = PaddedBatches(rows, task.collator(TOKENIZER, train=False), batch_size=4).outputs(
        torch_forward(model), task.keep
    )
    assert outputs.values.shape == (tokens, 2)
    predictions, references = task.predictions(outputs, rows, rows), task.references(rows, rows)
    scores = compute_metrics(task.metrics, takes=task.predicts)(predictions, references)
    assert scores["perplexity"] == pytest.approx(np.exp(cost / tokens), rel=1e-5)
    assert scores["next_token_accuracy"] == pytest.approx(right / tokens)
    totals = METRICS["perplexity"]().row_totals(references, predictions)
    assert totals.figures.shape == (13, 2)
    assert totals.score(totals.figures.sum(axis=0)) == pytest.approx(scores["perplexity"])


def test_the_task_loss_counts_what_is_predicted(tmp_path: Any) -> None:
    """A prompt changes the loss as context only: its labels do not."""
    task = make_task(prompt="prompt", completion="completion")
    rows = tokenized(task, {"prompt": ["the dog", "a"], "completion": [" barks", " cat purrs at 9"]})
    model = tiny_model("gpt2", "next_token", vocab_size=len(TOKENIZER))
    batch = task.collator(TOKENIZER)([rows[0], rows[1]])
    with torch.no_grad():
        loss, logits = model(**batch)[:2]
    losses = []
    for row in range(2):
        for position in range(batch["input_ids"].shape[1] - 1):
            wanted = int(batch["labels"][row, position + 1])
            if wanted != -100:
                losses.append(-torch.log_softmax(logits[row, position], -1)[wanted])
    assert len(losses) == sum(task.references(rows, rows))
    torch.testing.assert_close(loss, torch.stack(losses).mean())


def test_a_model_that_has_learned_nothing_is_weak() -> None:
    task = make_task()
    rows = tokenized(task, {"text": texts(40)})
    model = tiny_model("gpt2", "next_token", vocab_size=len(TOKENIZER))
    batches = PaddedBatches(rows, task.collator(TOKENIZER, train=False), batch_size=16)
    assert "its first choice is right in" in str(task.weakness(batches.outputs(torch_forward(model), task.keep), rows))
    knowing = batches.outputs(lambda batch: {"logits": 9.0 * np.eye(len(TOKENIZER))[next_ids(batch)]}, task.keep)
    assert task.weakness(knowing, rows) is None


def next_ids(batch: Any) -> Any:
    return np.pad(batch["input_ids"][:, 1:], ((0, 0), (0, 1)))


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises((ValueError, RecipeError)):
        make_task(packed=True)
