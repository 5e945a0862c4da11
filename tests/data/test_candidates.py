"""Candidates for words, against loops over the vocabulary and over masked texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from distil_nlp.data.candidates import MaskedWords, Neighbours, WordVocabulary
from distil_nlp.data.words import Words
from distil_nlp.errors import ModelError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WHOLE = ["film", "films", "plot", "actor", "music", "good", "bad", "was", "the", "play", "very", "then"]
PIECES = ["##ing", "##s", "7", "7th", ",", "!", "Film", "unused"]
NAMES = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def word_pieces(words: list[str] | None = None, *, mask: bool = True) -> PreTrainedTokenizerFast:
    words = [*SPECIAL, *WHOLE, *PIECES] if words is None else words
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    ends = [("[CLS]", words.index("[CLS]")), ("[SEP]", words.index("[SEP]"))]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {**NAMES, **({"mask_token": "[MASK]"} if mask else {})}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def byte_level() -> PreTrainedTokenizerFast:
    space = "\u0120"
    words = [
        "<s>",
        "<unk>",
        f"{space}film",
        "film",
        f"{space}plot",
        "plots",
        f"{space}caf\u00c3\u00a9",
        space,
        "f",
        "i",
    ]
    tokenizer = Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, [], unk_token="<unk>", ignore_merges=True))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")


@pytest.fixture(scope="module")
def masked_lm() -> BertForMaskedLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = BertConfig(
        vocab_size=len(SPECIAL + WHOLE + PIECES), max_position_embeddings=32, initializer_range=0.5, **sizes
    )
    return BertForMaskedLM(config).eval()


def test_the_vocabulary_of_words_has_neither_pieces_nor_special_tokens() -> None:
    found = WordVocabulary(word_pieces(), 100).words
    assert set(found.values()) == {*WHOLE, "unused"}  # the tokenizer makes "Film" small, so it is never used
    assert set(WordVocabulary(word_pieces(), 8).words.values()) == {"film", "films", "plot"}
    special = word_pieces()
    special.add_special_tokens({"eos_token": "unused"})
    assert set(WordVocabulary(special, 100).words.values()) == set(WHOLE)
    assert WordVocabulary(word_pieces(), 100).ids(["film", "FILM", "played", "films", "xyz"]) == {
        "film": 5,
        "FILM": 5,
        "films": 6,
    }


def test_words_of_byte_level_vocabularies_start_with_a_space() -> None:
    vocabulary = WordVocabulary(byte_level(), 100)
    assert vocabulary.words == {2: "film", 4: "plot", 6: "café"}
    assert vocabulary.ids(["film", "plot", "plots"]) == {"film": 2, "plot": 4}


def test_neighbours_are_the_nearest_by_cosine() -> None:
    tokenizer, words = word_pieces(), [*SPECIAL, *WHOLE, *PIECES]
    table = np.random.default_rng(0).normal(size=(len(words), 8))
    table[words.index("[MASK]")] = table[words.index("##ing")] = table[words.index("film")] * 1.1
    source = Neighbours(tokenizer, torch.tensor(table), count=4)
    allowed = [words.index(word) for word in (*WHOLE, "unused")]
    for word in WHOLE:
        own = table[words.index(word)]
        cosines = {
            words[i]: own @ table[i] / np.linalg.norm(own) / np.linalg.norm(table[i])
            for i in allowed
            if words[i] != word
        }
        expected = sorted(cosines, key=lambda other: -cosines[other])[:4]
        assert source([Words.of(word)]) == [[expected]]
    [[none, film, comma, played, seventh]] = source([Words.of("Qwerty Film, playing 7th")])
    assert none == comma == played == seventh == []
    assert film == [word.title() for word in source([Words.of("film")])[0][0]]
    assert len(Neighbours(tokenizer, torch.tensor(table), count=99)([Words.of("film")])[0][0]) == len(WHOLE)
    assert source.fingerprint() == Neighbours(word_pieces(), torch.tensor(table), count=4).fingerprint()
    assert source.fingerprint() != Neighbours(tokenizer, torch.tensor(table + 0.1), count=4).fingerprint()


def test_neighbours_that_differ_in_case_alone_are_none() -> None:
    words = [*SPECIAL, "Film", "film", "plot"]
    tokenizer = word_pieces(words)
    tokenizer.backend_tokenizer.normalizer = BertNormalizer(lowercase=False)
    source = Neighbours(tokenizer, torch.eye(8), count=5)
    assert source([Words.of("film Film plot")]) == [[["plot"], ["Plot"], ["Film", "film"]]]


def naive(model: BertForMaskedLM, tokenizer: PreTrainedTokenizerFast, text: str, place: int, count: int) -> list[str]:
    """One text, one word, no padding: the words by probability."""
    ids = tokenizer(text)["input_ids"]
    own, ids[place] = ids[place], tokenizer.mask_token_id
    with torch.inference_mode():
        probabilities = model(input_ids=torch.tensor([ids])).logits[0, place].softmax(-1)
    order = [i for i in probabilities.argsort(descending=True).tolist() if i != own]
    words = tokenizer.convert_ids_to_tokens(order)
    return [word for word in words if word in {*WHOLE, "unused"}][:count]


def test_a_masked_language_model_says_what_fits(masked_lm: BertForMaskedLM) -> None:
    tokenizer = word_pieces()
    source = MaskedWords(masked_lm, tokenizer, count=3, max_length=32)
    texts = ["The film was very good, then bad!", "music", "the playing actor was 7"]
    places = [{0: 1, 1: 2, 2: 3, 3: 4, 4: 5, 6: 7, 7: 8}, {0: 1}, {0: 1, 2: 4, 3: 5}]
    found = source([Words.of(text) for text in texts])
    for text, tokens, candidates in zip(texts, places, found, strict=True):
        assert len(candidates) == len(list(Words.of(text)))
        for word, given in enumerate(candidates):
            expected = naive(masked_lm, tokenizer, text, tokens[word], 3) if word in tokens else []
            assert [other.casefold() for other in given] == expected
    assert found[0][0] == [word.title() for word in found[0][0]]
    listed = source([Words.of(["the", "film", "playing"])])
    assert listed == source([Words.of("the film playing")])


def test_words_beyond_the_last_token_have_no_candidates(masked_lm: BertForMaskedLM) -> None:
    source = MaskedWords(masked_lm, word_pieces(), count=3, max_length=5)
    [found] = source([Words.of("film plot actor music good")])
    assert [len(each) for each in found] == [3, 3, 3, 0, 0]


def test_a_masked_language_model_needs_a_mask_token(masked_lm: BertForMaskedLM) -> None:
    with pytest.raises(ModelError, match="no mask token"):
        MaskedWords(masked_lm, word_pieces(mask=False), count=3, max_length=32)
