"""Token classification: words to tokens and back, against plain loops."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from tiny_run import build_tokenizer
from transformers import PreTrainedTokenizerFast

from distil_nlp.data.batches import Lists
from distil_nlp.data.load import load_task_data
from distil_nlp.data.read import RawData
from distil_nlp.data.tasks import TokenClassification
from distil_nlp.errors import DataError, ModelError
from distil_nlp.recipe.tasks import TokenClassificationSection

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "##s", "##ed", "a", "b", "c"]
TAGS = ["B-X", "I-X", "O"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(WORDS)


def make_task(**settings: object) -> TokenClassification:
    values = {"name": "token-classification", "dataset": "here", "max_length": 10, **settings}
    return TokenClassification(TokenClassificationSection.model_validate(values))


def clean(rows: list[dict[str, Any]], **settings: object) -> tuple[Dataset, dict[str, int]]:
    dropped: Counter[str] = Counter()
    task = make_task(**settings)
    return task.clean(RawData({"train": Dataset.from_list(rows)}), dropped)["train"], dict(dropped)


ROWS = [
    {"tokens": ["as", "b", "ced"], "tags": ["B-X", "I-X", "O"]},
    {"tokens": ["\ufe0f", "a", "", "bs"], "tags": ["O", "B-X", "O", "I-X"]},  # two words without a token
    {
        "tokens": ["aseds", "bs", "ced", "c", "a"],
        "tags": ["B-X", "O", "B-X", "I-X", "O"],
    },  # more than there is room for
]


def test_a_word_has_its_tag_at_its_first_token(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = make_task().tokenize(clean(ROWS)[0], tokenizer)
    ids = {word: i for i, word in enumerate(WORDS)}
    cls, sep, a, b, c, s, ed = (ids[word] for word in ("[CLS]", "[SEP]", "a", "b", "c", "##s", "##ed"))
    assert rows["input_ids"][:] == [
        [cls, a, s, b, c, ed, sep],
        [cls, a, b, s, sep],
        [cls, a, s, ed, s, b, s, c, ed, sep],
    ]
    assert rows["labels"][:] == [
        [-100, 0, -100, 1, 2, -100, -100],
        [-100, 0, 1, -100, -100],
        [-100, 0, -100, -100, -100, 2, -100, 0, -100, -100],
    ]
    assert rows["words"][:] == [[0, 1, 2], [1, 3], [0, 1, 2]]


def test_tags_come_back_to_their_words(tokenizer: PreTrainedTokenizerFast) -> None:
    task, (examples, _) = make_task(), clean(ROWS)
    rows = task.tokenize(examples, tokenizer)
    batch = {name: np.asarray(value) for name, value in task.collator(tokenizer, train=False)(list(rows)).items()}
    assert set(batch) <= {"input_ids", "attention_mask", "token_type_ids", "labels"}
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
    logits = np.zeros((*batch["labels"].shape, 3))
    for place, label in np.ndenumerate(batch["labels"]):
        logits[(*place, max(label, 0))] = 1.0  # what is right
    kept = task.keep({"logits": logits}, batch)
    assert [len(values) for values in kept] == [3, 2, 3]
    outputs = Lists(np.concatenate(kept), np.array([len(values) for values in kept]))
    found = task.predictions(outputs, rows, examples)
    assert found == [["B-X", "I-X", "O"], ["O", "B-X", "O", "I-X"], ["B-X", "O", "B-X", "O", "O"]]
    assert task.references(rows, examples) == [row["tags"] for row in ROWS]


def test_words_without_a_token_get_the_first_tag_where_there_is_no_o(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [{"tokens": ["", "a"], "tags": ["NOUN", "VERB"]}, {"tokens": ["b"], "tags": ["ADJ"]}]
    task, (examples, _) = make_task(), clean(rows)
    outputs = Lists(np.array([[0, 0, 1.0], [0, 1.0, 0]]), np.array([1, 1]))
    assert task.predictions(outputs, task.tokenize(examples, tokenizer), examples) == [["ADJ", "VERB"], ["NOUN"]]


def test_rows_that_cannot_be_learned_from() -> None:
    rows = [
        *ROWS,
        {"tokens": [], "tags": []},
        {"tokens": None, "tags": ["O"]},
        {"tokens": ["a"], "tags": None},
    ]
    kept, dropped = clean(rows)
    assert (len(kept), dropped) == (3, {"no words": 2, "no tags": 1})
    assert make_task().label_names(kept) == TAGS
    assert make_task().seen_labels(kept) == {0, 1, 2}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "Row 2 has 2 words and 1 tags"),
        ({"tokens": ["a", None], "tags": ["O", "O"]}, "does not hold lists of words"),
    ],
)
def test_rows_that_are_wrong(row: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        clean([ROWS[0], row])


def test_a_column_of_text_is_no_list_of_words() -> None:
    with pytest.raises(DataError, match=r"(?s)does not hold lists of words.*`tokens`"):
        clean([{"tokens": "a b", "tags": ["O", "B-X"]}])
    with pytest.raises(DataError, match=r"(?s)list of labels a row.*`tags`"):
        clean([{"tokens": ["a", "b"], "tags": "O O"}])


def test_names_of_the_data_stay() -> None:
    features = Features({"words": Sequence(Value("string")), "ner": Sequence(ClassLabel(names=["O", "B-Y", "I-Y"]))})
    rows = Dataset.from_dict({"words": [["a", "b"]], "ner": [[1, 0]]}, features=features)
    task = make_task(tokens="words", tags="ner")
    kept = task.clean(RawData({"train": rows}), Counter())["train"]
    assert task.label_names(kept) == ["O", "B-Y", "I-Y"]
    assert kept[0] == {"tokens": ["a", "b"], "tags": [1, 0]}


def test_metrics_follow_the_tags() -> None:
    assert make_task().metrics_for(TAGS)[0] == "entity_f1"
    assert make_task().metrics_for(["ADJ", "NOUN"]) == ("tag_accuracy",)


def test_a_teacher_must_know_more_than_the_commonest_tag(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = make_task().tokenize(clean(ROWS)[0], tokenizer)
    right = [tag for labels in rows["labels"] for tag in labels if tag != -100]
    assert Counter(right) == {0: 4, 2: 2, 1: 2}
    counts = np.array([3, 2, 3])
    for given, weak in [(np.zeros(8, int), True), (np.full(8, 2), False), (np.where(np.array(right) == 0, 1, 0), True)]:
        assert (make_task().weakness(Lists(np.eye(3)[given], counts), rows) is not None) == weak
    plain = rows.map(lambda row: {"labels": [min(label, 0) for label in row["labels"]]})
    assert make_task().weakness(Lists(np.eye(3)[np.ones(8, int)], counts), plain) is None  # nothing can be told


def test_a_slow_tokenizer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(PreTrainedTokenizerFast):
        is_fast = False

    slow = Slow(tokenizer_object=build_tokenizer(WORDS).backend_tokenizer)
    with pytest.raises(ModelError, match="fast tokenizer"):
        make_task().tokenize(clean(ROWS)[0], slow)


CONLL = """-DOCSTART- -X- O O

EU NNP B-ORG
rejects VBZ O

Peter NNP B-PER
Blackburn NNP I-PER


# O
"""


@pytest.mark.parametrize("name", ["train.conll", "train.txt"])
def test_conll_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("\ufeff" + CONLL, encoding="utf-8", newline="\r\n")
    tabbed = "New\u2028York\tB-LOC\n \t\nthe sea\tO\n\t\nx\tO"  # a tab alone, a space in a word, no end of line
    for split in ("dev", "test"):
        (tmp_path / name.replace("train", split)).write_text(tabbed, encoding="utf-8")
    data = load_task_data(make_task(dataset=str(tmp_path)))
    names = make_task().label_names(data.splits["train"])
    found = [(row["tokens"], [names[tag] for tag in row["tags"]]) for row in data.splits["train"]]
    assert found == [
        (["EU", "rejects"], ["B-ORG", "O"]),
        (["Peter", "Blackburn"], ["B-PER", "I-PER"]),
        (["#"], ["O"]),
    ]
    assert data.splits["test"]["tokens"][:] == [["New\u2028York"], ["the sea"], ["x"]]
    assert names == ["B-LOC", "B-ORG", "B-PER", "I-PER", "O"]


@pytest.mark.parametrize("line", ["word", "\tO", "word\t"])
def test_a_line_that_is_no_tagged_word(tmp_path: Path, line: str) -> None:
    (tmp_path / "rows.conll").write_text(f"a\tO\n\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"(?s)rows.conll.*Line 3 is"):
        load_task_data(make_task(dataset=str(tmp_path / "rows.conll")))
