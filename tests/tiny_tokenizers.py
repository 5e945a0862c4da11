"""Small tokenizers of every kind, trained on the spot."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TRAINING_TEXTS = [
    "The film was surprisingly good, and the actors were unbelievably convincing throughout.",
    "A disappointing, overlong sequel: nobody believed in the characters any longer!",
    "Unhappily the director's cut (2 hours 47 minutes) is longer and lower in quality.",
    "Newer widest lower slower, the widest and newest lowest; believe the unbelievable.",
    "Das Größte war die naïve Fröhlichkeit der Café-Szene; très bien, mais trop longue.",
    "hugging hugs and bugs, pugs and puns: hug hug hug the longest longing of longings.",
    "東京 is far away, 北京 too; 🙂 smiled the director of 1,234 films for 5,678 people.",
]
CORPUS = [
    "The unbelievable director smiled: the film was good!",
    "nobody believed the longest, lowest and newest film",
    "très naïve café, 東京 🙂 far away ∞ — what? zzz qqq",
    "hugging the widest pugs  and\tbugs\n in 1,234 films",
    "",
    "believe",
]
SPECIAL = {
    "unk_token": "[UNK]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
    "bos_token": "[CLS]",
    "eos_token": "[SEP]",
}
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def model_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """The part of ``tokenizer.json`` that holds the vocabulary."""
    return json.loads(tokenizer.to_str())["model"]


def _template(tokenizer: Tokenizer):
    return processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )


def _wordpiece(specials):
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(
        TRAINING_TEXTS[:5], trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials, show_progress=False)
    )
    made.post_processor = processors.BertProcessing(
        ("[SEP]", specials.index("[SEP]")), ("[CLS]", specials.index("[CLS]"))
    )
    return made


def _byte_level_bpe(specials):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=specials, show_progress=False, initial_alphabet=alphabet
    )
    made.train_from_iterator(TRAINING_TEXTS, trainer)
    made.post_processor = processors.RobertaProcessing(
        ("[SEP]", specials.index("[SEP]")), ("[CLS]", specials.index("[CLS]")), add_prefix_space=False
    )
    return made


def _whole_word_bpe(specials):
    """As in Llama 3: a word that is in the vocabulary is looked up before anything is merged."""
    made = _byte_level_bpe(specials)
    vocabulary = made.get_vocab(with_added_tokens=False)
    merges = [tuple(merge) for merge in model_of(made)["merges"]]
    vocabulary["Ġzzz"] = len(vocabulary)  # no merge makes it
    made.model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True)
    return made


def _word_end_bpe(specials):
    """As in the first GPT: characters, with a mark on the last of a word."""
    made = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=260, special_tokens=specials, show_progress=False, end_of_word_suffix="</w>"
    )
    made.train_from_iterator(TRAINING_TEXTS[:5], trainer)
    made.post_processor = _template(made)
    return made


def _inside_bpe(specials):
    """A mark on what is inside a word, as WordPiece has it."""
    made = Tokenizer(models.BPE(unk_token="[UNK]", continuing_subword_prefix="##"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=260, special_tokens=specials, show_progress=False, continuing_subword_prefix="##"
    )
    made.train_from_iterator(TRAINING_TEXTS[:5], trainer)
    made.post_processor = _template(made)
    return made


def _byte_fallback_bpe(specials):
    """As in Llama 2: characters, a mark for spaces, and bytes for unknown characters."""
    made = Tokenizer(models.BPE(unk_token="[UNK]", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=620, special_tokens=[*specials, *BYTES], show_progress=False, max_token_length=14
    )
    made.train_from_iterator(TRAINING_TEXTS[:5], trainer)
    specification = json.loads(made.to_str())
    specification["added_tokens"] = [token for token in specification["added_tokens"] if token["content"] in specials]
    made = Tokenizer.from_str(json.dumps(specification))
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.post_processor = _template(made)
    return made


def _unigram(specials, *, byte_fallback=False):
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=specials, show_progress=False, unk_token="[UNK]")
    made.train_from_iterator(TRAINING_TEXTS[:5] * 3, trainer)
    if byte_fallback:
        pieces = model_of(made)["vocab"]
        pieces = [*map(tuple, pieces), *((byte, 0.0) for byte in BYTES)]
        made.model = models.Unigram(pieces, unk_id=specials.index("[UNK]"), byte_fallback=True)
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    made.post_processor = _template(made)
    return made


KINDS = {
    "wordpiece": _wordpiece,
    "byte_level_bpe": _byte_level_bpe,
    "whole_word_bpe": _whole_word_bpe,
    "word_end_bpe": _word_end_bpe,
    "inside_bpe": _inside_bpe,
    "byte_fallback_bpe": _byte_fallback_bpe,
    "unigram": _unigram,
    "byte_fallback_unigram": lambda specials: _unigram(specials, byte_fallback=True),
}


def tiny_tokenizer(kind: str, *, specials=SPECIAL_TOKENS, added=("<extra>",)) -> PreTrainedTokenizerFast:
    """A fast tokenizer with special tokens at the given ids, and with added tokens beside its model."""
    made = PreTrainedTokenizerFast(tokenizer_object=KINDS[kind](list(specials)), model_max_length=64, **SPECIAL)
    made.add_tokens(list(added))
    return made
