"""What a tokenizer puts around texts stays, whatever it is called and wherever it is declared."""

import json

import pytest
from tiny_models import tiny_model
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    CamembertTokenizer,
    PreTrainedTokenizerFast,
    T5Tokenizer,
    XLMRobertaTokenizer,
)

from distil_nlp.errors import ModelError
from distil_nlp.students import trim_vocabulary

TEXTS = ["x y", "y"]


def around(start, end, processor, **specials):
    vocabulary = {token: at for at, token in enumerate(["[PAD]", "[UNK]", "z", "junk", start, end, "x", "y", "more"])}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processor((start, 4), (end, 5))
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", **specials)


def template(start, end):
    return processors.TemplateProcessing(
        single=f"{start[0]} $A {end[0]}", pair=f"{start[0]} $A {end[0]} $B {end[0]}", special_tokens=[start, end]
    )


def as_bert(start, end):
    return processors.BertProcessing(end, start)


@pytest.mark.parametrize("processor", [template, as_bert])
@pytest.mark.parametrize(
    ("start", "end", "specials"),
    [
        ("<a>", "<b>", {}),  # the tokenizer knows no role for them
        ("cls", "sep", {"cls_token": "cls", "sep_token": "sep"}),  # as a part of the file's format is called
    ],
)
def test_tokens_around_texts(start, end, specials, processor, tmp_path):
    old = around(start, end, processor, **specials)
    trimmed = trim_vocabulary(tiny_model("bert", "masked", vocab_size=9), old, TEXTS)
    assert {"junk", "more"}.isdisjoint(trimmed.tokenizer.get_vocab())
    trimmed.tokenizer.save_pretrained(tmp_path)
    for new in (trimmed.tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert new("x y").tokens() == [start, "x", "y", end]
        for texts in (("x y",), ("y",), ("x", "y")):
            assert [trimmed.kept[index] for index in new(*texts)["input_ids"]] == old(*texts)["input_ids"]


WORDS = ["▁the", "▁film", "▁was", "▁good", "▁bad", "▁", *"abdefghilmostw"]
CORPUS = ["the film was good", "the film wasted ☂ gold", "film"]
SCORED = {
    T5Tokenizer: (["<pad>", "</s>", "<unk>"], ["<extra_id_1>", "<extra_id_0>"], {"extra_ids": 2}),
    XLMRobertaTokenizer: (["<s>", "<pad>", "</s>", "<unk>"], ["<mask>"], {}),
    CamembertTokenizer: (["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"], ["<mask>"], {}),
}


@pytest.mark.parametrize("kind", [BertTokenizer, *SCORED])
def test_classes_that_build_their_tokenizer_themselves(kind, tmp_path):
    """They read the vocabulary out of the file and make the rest anew, with ids that they take for granted."""
    if kind is BertTokenizer:
        start = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        words = [word.removeprefix("▁") for word in WORDS if word != "▁"]
        old = kind(vocab={t: at for at, t in enumerate([*start, *words, *(f"##{each}" for each in "adegotw")])})
    else:
        first, last, more = SCORED[kind]
        scores = [*((t, 0.0) for t in first), *((w, -2.0 - at / 9) for at, w in enumerate(WORDS))]
        old = kind(vocab=[*scores, *((token, 0.0) for token in last)], **more)
    old.save_pretrained(tmp_path / "old")
    old = AutoTokenizer.from_pretrained(tmp_path / "old")
    assert type(old) is kind
    trimmed = trim_vocabulary(tiny_model("bert", "masked", vocab_size=len(old)), old, CORPUS)
    assert len(trimmed.kept) < len(old)
    trimmed.tokenizer.save_pretrained(tmp_path / "new")
    assert old.unk_token_id in old(CORPUS[1])["input_ids"]
    for new in (trimmed.tokenizer, AutoTokenizer.from_pretrained(tmp_path / "new")):
        for text in [*CORPUS, ""]:
            assert [trimmed.kept[index] for index in new(text)["input_ids"]] == old(text)["input_ids"]
        for name, token in old.special_tokens_map.items():
            if isinstance(token, str):
                assert trimmed.kept[getattr(new, f"{name}_id")] == getattr(old, f"{name}_id")
        unknown = json.loads(new.backend_tokenizer.to_str())["model"].get("unk_id")
        assert unknown in (None, new.unk_token_id)


@pytest.mark.parametrize(
    ("part", "own"),
    [
        ("normalizer", normalizers.Replace("film", "good")),
        ("pre_tokenizer", pre_tokenizers.CharDelimiterSplit("a")),
        ("post_processor", template(("film", 6), ("good", 7))),
    ],
)
@pytest.mark.parametrize("drop", [{}, {"min_count": 2}])
def test_what_such_a_class_does_not_keep_of_a_tokenizer_in_memory_is_refused(part, own, drop):
    old = BertTokenizer(
        vocab={
            token: at
            for at, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "film", "good", "bad"])
        }
    )
    model = tiny_model("bert", "masked", vocab_size=len(old))
    trim_vocabulary(model, old, CORPUS, **drop)
    setattr(old.backend_tokenizer, part, own)
    with pytest.raises(ModelError, match="Save and load the tokenizer first"):
        trim_vocabulary(model, old, CORPUS, **drop)
