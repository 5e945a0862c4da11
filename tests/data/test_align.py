"""Teacher, student, tokenizer and data must speak of the same labels and tokens."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, GPT2Config, PreTrainedTokenizerFast, RobertaConfig

from distil_nlp.data.align import align_labels, check_same_tokenizer, check_tokenizer_fits
from distil_nlp.errors import ModelError

WORDS = ("[PAD]", "[UNK]", "the", "The", "fox", "tokens")


def make_tokenizer(
    words: tuple[str, ...] = WORDS, *, lower: bool = False, pad: str | None = "[PAD]"
) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if lower:
        tokenizer.normalizer = normalizers.Lowercase()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token=pad)


def teacher_with(*names: str) -> BertConfig:
    return BertConfig(id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)})


def test_labels_that_agree() -> None:
    align_labels(teacher_with("negative", "positive"), ["negative", "positive"])
    align_labels(teacher_with("NEGATIVE", "POSITIVE"), ["negative", "positive"])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["positive", "negative"], "another order"),
        (["LABEL_0", "LABEL_1"], "have no names"),
        (["bad", "good"], 'classes: {bad: "negative", ...}'),
        (["negative", "neutral", "positive"], "2 positive. Data: 0 negative, 1 positive"),
    ],
)
def test_labels_that_do_not_agree(names: list[str], said: str) -> None:
    with pytest.raises(ModelError) as failure:
        align_labels(teacher_with(*names), ["negative", "positive"])
    message = str(failure.value)
    assert said in message
    assert all(name in message for name in [*names, "negative", "positive"])


def test_an_order_of_more_than_ten_labels_is_by_number() -> None:
    names = [f"intent {i}" for i in range(12)]
    align_labels(teacher_with(*names), names)


def test_a_tokenizer_that_fits() -> None:
    check_tokenizer_fits(make_tokenizer(), BertConfig(vocab_size=6), max_length=512)
    check_tokenizer_fits(make_tokenizer(), BertConfig(vocab_size=8))  # rows to spare are usual
    check_tokenizer_fits(make_tokenizer(), GPT2Config(vocab_size=6), max_length=1024)


def test_a_token_without_an_embedding() -> None:
    with pytest.raises(ModelError, match="go up to 5, and the model has 5 embeddings"):
        check_tokenizer_fits(make_tokenizer(), BertConfig(vocab_size=5))
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["new"])
    with pytest.raises(ModelError, match="go up to 6"):
        check_tokenizer_fits(tokenizer, BertConfig(vocab_size=6))


def test_no_padding_token() -> None:
    with pytest.raises(ModelError, match=r"pad_token = tokenizer\.eos_token"):
        check_tokenizer_fits(make_tokenizer(pad=None), BertConfig(vocab_size=6))


def test_more_tokens_than_positions() -> None:
    with pytest.raises(ModelError, match="positions for 512 tokens"):
        check_tokenizer_fits(make_tokenizer(), BertConfig(vocab_size=6), max_length=513)
    roberta = RobertaConfig(vocab_size=6, max_position_embeddings=514, pad_token_id=1)
    check_tokenizer_fits(make_tokenizer(), roberta, max_length=512)
    with pytest.raises(ModelError, match="positions for 512 tokens"):
        check_tokenizer_fits(make_tokenizer(), roberta, max_length=513)


def test_the_positions_that_roberta_really_has() -> None:
    import torch
    from transformers import RobertaModel

    config = RobertaConfig(
        vocab_size=6,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=12,
        pad_token_id=1,
    )
    model = RobertaModel(config)
    model(torch.full((1, 10), 2))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, 11), 2))
    with pytest.raises(ModelError, match="positions for 10 tokens"):
        check_tokenizer_fits(make_tokenizer(), config, max_length=11)


def test_the_same_tokenizer() -> None:
    check_same_tokenizer(make_tokenizer(), make_tokenizer())


def test_a_different_vocabulary_names_the_way_out() -> None:
    with pytest.raises(ModelError, match=r"(?s)2 tokens differ.*student: \{num_layers") as failure:
        check_same_tokenizer(make_tokenizer(), make_tokenizer((*WORDS[:4], "tokens", "fox")))
    assert "'fox' has the id 4 in the one and 5 in the other" in str(failure.value)


def test_the_same_vocabulary_used_differently() -> None:
    with pytest.raises(ModelError, match="cut texts differently"):
        check_same_tokenizer(make_tokenizer(), make_tokenizer(lower=True))
