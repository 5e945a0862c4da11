"""Other models of a vocabulary that was trimmed, and corpora that come word by word."""

import pytest
import torch
from datasets.fingerprint import Hasher
from test_trim_vocabulary import assert_same_outputs, assert_same_tokens, masked_model
from tiny_models import tiny_model
from tiny_tokenizers import CORPUS, KINDS, SPECIAL, SPECIAL_TOKENS, tiny_tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from distil_nlp.errors import ModelError
from distil_nlp.students import trim_embeddings, trim_vocabulary
from distil_nlp.students.embeddings import kept_ids


@pytest.mark.parametrize("kind", KINDS)
def test_another_model_gets_the_same_tokens(kind, tmp_path):
    old = tiny_tokenizer(kind)
    first, second = masked_model(old, seed=1), masked_model(old, seed=2)
    trimmed = trim_vocabulary(first, old, CORPUS)
    trimmed.tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for new in (trimmed.tokenizer, loaded):
        assert kept_ids(first, old, new) == trimmed.kept
        again = trim_embeddings(first, old, new)
        assert all(torch.equal(value, again.state_dict()[key]) for key, value in trimmed.model.state_dict().items())
        assert again.config.to_dict() == trimmed.model.config.to_dict()
        assert_same_outputs(second, trim_embeddings(second, old, new), old, new, trimmed.kept)


def test_models_that_name_tokens_of_their_own():
    old = tiny_tokenizer("wordpiece")
    trimmed = trim_vocabulary(masked_model(old), old, CORPUS[:1])
    dropped = max(set(old.get_vocab().values()) - set(trimmed.kept))
    token = old.convert_ids_to_tokens(dropped)
    other = masked_model(old)
    other.config.decoder_start_token_id = dropped
    with pytest.raises(ModelError, match=rf"(?s)names the token '{token}' \({dropped}\).*keep=\['{token}'\]"):
        trim_embeddings(other, old, trimmed.tokenizer)
    with_it = trim_vocabulary(masked_model(old), old, CORPUS[:1], keep=[token])
    new = trim_embeddings(other, old, with_it.tokenizer)
    assert new.config.decoder_start_token_id == with_it.tokenizer.convert_tokens_to_ids(token)
    other.config.decoder_start_token_id = len(old) + 2  # a row of the embedding that stands for no token
    new = trim_embeddings(other, old, trimmed.tokenizer)
    rows = [model.get_input_embeddings().weight for model in (other, new)]
    assert new.config.vocab_size == len(trimmed.kept) + 1
    assert new.config.decoder_start_token_id == len(trimmed.kept)
    assert torch.equal(rows[1][-1], rows[0][len(old) + 2])


@pytest.mark.parametrize(
    "form", [dict, lambda biases: [[list(ids), bias] for ids, bias in biases]], ids=["dict", "list"]
)
def test_tokens_with_a_bias_are_kept_and_named_anew(form):
    old = tiny_tokenizer("byte_level_bpe")
    model = tiny_model("gpt2", "next_token", vocab_size=len(old))
    first, second = len(old) - 3, len(old) - 2
    bias = float(first)
    model.generation_config.sequence_bias = form([((first,), -5.0), ((first, second), bias)])
    trimmed = trim_vocabulary(model, old, ["a"])
    first, second = map(trimmed.kept.index, (first, second))
    assert trimmed.model.generation_config.sequence_bias == form([((first,), -5.0), ((first, second), bias)])


def test_tokenizers_that_do_not_belong_together_are_refused():
    old, other = tiny_tokenizer("wordpiece"), tiny_tokenizer("unigram")
    with pytest.raises(ModelError, match="not one of the whole tokenizer"):
        trim_embeddings(masked_model(old), old, other)


def test_a_corpus_that_uses_every_token_leaves_the_model_as_it_is():
    old = tiny_tokenizer("wordpiece")
    model = masked_model(old, extra=0)
    trimmed = trim_vocabulary(model, old, CORPUS, keep=sorted(old.get_vocab()))
    assert trimmed.kept == list(range(len(old)))
    assert trimmed.model is not model
    assert all(torch.equal(value, trimmed.model.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_were_tokenized_before_are_found_on_the_disk(kind, tmp_path):
    tiny_tokenizer(kind).save_pretrained(tmp_path)
    old = AutoTokenizer.from_pretrained(tmp_path)
    trimmed = [trim_vocabulary(masked_model(old), old, CORPUS).tokenizer for _ in range(2)]
    assert Hasher.hash(trimmed[0]) == Hasher.hash(trimmed[1]) != Hasher.hash(old)


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "word_end_bpe"])
def test_texts_that_are_lists_of_words(kind):
    old = tiny_tokenizer(kind)
    corpus = [text.split() for text in CORPUS if text]
    trimmed = trim_vocabulary(masked_model(old), old, corpus)
    for words in corpus:
        before, after = (each(words, is_split_into_words=True) for each in (old, trimmed.tokenizer))
        assert [trimmed.kept[index] for index in after["input_ids"]] == before["input_ids"]
        assert after.word_ids() == before.word_ids()
    assert trimmed.coverage == 1.0
    both = trim_vocabulary(masked_model(old), old, [CORPUS[0], corpus[1], CORPUS[2]])
    assert_same_tokens(old, both.tokenizer, both.kept, [CORPUS[0], CORPUS[2]])
    before, after = (each(corpus[1], is_split_into_words=True)["input_ids"] for each in (old, both.tokenizer))
    assert [both.kept[index] for index in after] == before


def test_a_word_of_a_list_that_is_unknown_stays_unknown():
    """As in a text: of abc, WordPiece takes ab and finds nothing for c; without ab it would take a and find bc."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS, "ab", "a", "##bc", "x", "unused"])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    old = PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)
    corpus = [["a", "xbc", "x-ABC"]]
    model = tiny_model("bert", "masked", vocab_size=len(old))
    new = trim_vocabulary(model, old, corpus).tokenizer
    tokens = [each(corpus[0], is_split_into_words=True).tokens() for each in (old, new)]
    assert tokens[0] == tokens[1] == ["a", "x", "##bc", "x", "[UNK]", "[UNK]"]
    assert "unused" not in new.get_vocab()
