import copy
import json
from collections import Counter

import pytest
import torch
from tiny_models import CONFIGS, tiny_model
from tiny_seq2seq import tiny_seq2seq
from tiny_tokenizers import BYTES, CORPUS, KINDS, SPECIAL, SPECIAL_TOKENS, model_of, tiny_tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ByT5Tokenizer,
    PreTrainedTokenizerFast,
)

from distil_nlp.errors import DataError, ModelError
from distil_nlp.students import build_student, trim_vocabulary

PAIR = ("the film was good", "nobody believed the director")


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: tiny_tokenizer(kind) for kind in KINDS}


def masked_model(tokenizer, family="bert", extra=7, **config):
    """A masked language model with more rows than the tokenizer has tokens."""
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
    ids = {name: getattr(tokenizer, name) for name in names}
    return tiny_model(family, "masked", vocab_size=len(tokenizer) + extra, **ids, **config)


def assert_same_tokens(old, new, kept, texts):
    for text in texts:
        assert [kept[index] for index in new(text)["input_ids"]] == old(text)["input_ids"], text


def assert_same_outputs(old_model, new_model, old, new, kept):
    texts = [text for text in CORPUS if text]
    before, after = (each(texts, padding=True, return_tensors="pt") for each in (old, new))
    before, after = ({name: each[name] for name in ("input_ids", "attention_mask")} for each in (before, after))
    if old_model.config.is_encoder_decoder:
        for each in (before, after):
            each["decoder_input_ids"] = each["input_ids"]
    with torch.no_grad():
        expected, found = old_model(**before).logits, new_model(**after).logits
    torch.testing.assert_close(found, expected[..., kept], rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_corpus_is_cut_alike_and_outputs_are_the_same(kind, tokenizers, tmp_path):
    old = tokenizers[kind]
    model, state = masked_model(old), copy.deepcopy(old.backend_tokenizer.get_vocab())
    trimmed = trim_vocabulary(model, old, iter(CORPUS))
    kept = trimmed.kept
    assert len(kept) == len(set(kept)) == len(trimmed.tokenizer) < len(old)
    assert trimmed.coverage == 1.0
    trimmed.tokenizer.save_pretrained(tmp_path)
    for new in (trimmed.tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert new.is_fast
        assert type(new) is type(old)
        assert new.model_max_length == old.model_max_length == 64
        assert new.special_tokens_map == old.special_tokens_map
        assert [kept[index] for index in new.all_special_ids] == old.all_special_ids
        assert_same_tokens(old, new, kept, CORPUS)
        pairs = [each(*PAIR, return_token_type_ids=True) for each in (old, new)]
        assert pairs[0]["token_type_ids"][-1] == pairs[1]["token_type_ids"][-1]
        assert [kept[index] for index in new("[MASK] <extra> [SEP]")["input_ids"]] == old("[MASK] <extra> [SEP]")[
            "input_ids"
        ]
        for part in ("normalizer", "pre_tokenizer", "decoder"):
            assert repr(getattr(new.backend_tokenizer, part)) == repr(getattr(old.backend_tokenizer, part))
        ids = new(CORPUS[0])["input_ids"]
        assert new.decode(ids) == old.decode([kept[index] for index in ids])
    assert_same_outputs(model, trimmed.model, old, trimmed.tokenizer, kept)
    assert old.backend_tokenizer.get_vocab() == state
    assert model.config.vocab_size == len(old) + 7


@pytest.mark.parametrize("kind", KINDS)
def test_words_that_the_corpus_did_not_have_are_cut_smaller_not_lost(kind, tokenizers):
    old = tokenizers[kind]
    new = trim_vocabulary(masked_model(old), old, CORPUS[:2]).tokenizer
    assert len(new) < len(old)
    text = "unseen wording lowers the sequel"
    assert new.unk_token_id not in new(text)["input_ids"]
    assert new.decode(new(text)["input_ids"], skip_special_tokens=True).split() == text.split() or kind == "inside_bpe"
    if "byte" in kind or kind == "whole_word_bpe":
        strange = "żółć ∞ 北 \U0001f600"
        assert new.unk_token_id not in new(strange)["input_ids"]
        assert new.decode(new(strange)["input_ids"], skip_special_tokens=True).strip() == strange
    if "byte_fallback" in kind:
        assert set(BYTES) <= set(new.get_vocab())


@pytest.mark.parametrize(
    ("family", "item"),
    [
        *((family, "masked") for family in ("roberta", "distilbert", "electra", "albert", "modernbert", "deberta-v2")),
        ("gpt2", "next_token"),
        ("llama", "next_token"),
    ],
)
def test_every_family_gives_the_same_outputs_and_loads_plainly(family, item, tokenizers, tmp_path):
    old = tokenizers["wordpiece"]
    model = tiny_model(family, item, vocab_size=len(old) + 3)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    trimmed = trim_vocabulary(model, old, CORPUS)
    assert trimmed.model.config.vocab_size == len(trimmed.kept)
    assert trimmed.model.get_input_embeddings().weight.shape[0] == len(trimmed.kept)
    assert_same_outputs(model, trimmed.model, old, trimmed.tokenizer, trimmed.kept)
    tied = [m.get_output_embeddings().weight is m.get_input_embeddings().weight for m in (model, trimmed.model)]
    assert tied[0] == tied[1]
    trimmed.model.save_pretrained(tmp_path)
    loaded = (AutoModelForCausalLM if item == "next_token" else AutoModelForMaskedLM).from_pretrained(tmp_path)
    assert_same_outputs(model, loaded, old, trimmed.tokenizer, trimmed.kept)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_encoder_decoders_and_their_biases(family, tokenizers):
    old = tokenizers["unigram"]
    model = tiny_seq2seq(family, vocab_size=len(old) + 3)
    trimmed = trim_vocabulary(model, old, CORPUS)
    assert_same_outputs(model, trimmed.model, old, trimmed.tokenizer, trimmed.kept)
    ids = old(CORPUS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():  # the tokens that were dropped must not be what is generated
        dropped = torch.tensor(sorted(set(range(model.config.vocab_size)) - set(trimmed.kept)))
        model.get_output_embeddings().weight[dropped] = 0
    generated = trimmed.model.generate(
        trimmed.tokenizer(CORPUS[0], return_tensors="pt")["input_ids"], max_new_tokens=4, do_sample=False
    )
    assert generated.max() < len(trimmed.kept)
    assert generated[0, 0] == trimmed.kept.index(model.config.decoder_start_token_id)
    assert ids.shape[0] == generated.shape[0]


def test_special_ids_of_configurations_and_the_padding_index_follow():
    specials = ["junk1", *SPECIAL_TOKENS, "junk2"]
    old = tiny_tokenizer("byte_level_bpe", specials=specials)
    specification = old.backend_tokenizer
    assert old.pad_token_id == 1
    ids = {"pad_token_id": 380, "bos_token_id": 381, "eos_token_id": 382}  # words, for all that it matters
    model = tiny_model("gpt2", "next_token", vocab_size=len(old), **ids)
    model.generation_config.eos_token_id = [382, 383]
    model.generation_config.suppress_tokens = [384]
    model.generation_config.bad_words_ids = [[385, 380]]
    trimmed = trim_vocabulary(model, old, CORPUS[1:2])
    new = {name: trimmed.kept.index(index) for name, index in ids.items()}
    config, generation = trimmed.model.config, trimmed.model.generation_config
    assert {name: getattr(config, name) for name in ids} == new
    assert generation.eos_token_id == [trimmed.kept.index(382), trimmed.kept.index(383)]
    assert generation.suppress_tokens == [trimmed.kept.index(384)]
    assert generation.bad_words_ids == [[trimmed.kept.index(385), trimmed.kept.index(380)]]
    assert model.generation_config.suppress_tokens == [384]
    assert specification.to_str() == old.backend_tokenizer.to_str()
    assert new["pad_token_id"] < ids["pad_token_id"]
    bert = masked_model(old)
    short = trim_vocabulary(bert, old, CORPUS[1:2])
    assert (
        short.model.get_input_embeddings().padding_idx
        == short.tokenizer.pad_token_id
        == short.model.config.pad_token_id
    )


def with_unused(kind, unused, specials):
    """A tokenizer whose vocabulary begins with entries of no use, which are not among its added tokens."""
    made = tiny_tokenizer(kind, specials=[*unused, *specials], added=())
    specification = json.loads(made.backend_tokenizer.to_str())
    specification["added_tokens"] = [t for t in specification["added_tokens"] if t["content"] not in unused]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(specification)), **SPECIAL)


@pytest.mark.parametrize("kind", ["wordpiece", "byte_level_bpe", "unigram"])  # each has another post-processor
def test_special_tokens_that_move_are_still_put_around_texts(kind):
    old = with_unused(kind, ["unused0", "unused1"], SPECIAL_TOKENS)
    assert old("")["input_ids"] == [4, 5]
    trimmed = trim_vocabulary(masked_model(old), old, CORPUS)
    assert trimmed.tokenizer("")["input_ids"] == [2, 3]
    assert trimmed.kept[:5] == [2, 3, 4, 5, 6]
    assert_same_tokens(old, trimmed.tokenizer, trimmed.kept, CORPUS)
    pairs = old(*PAIR)["input_ids"], trimmed.tokenizer(*PAIR)["input_ids"]
    assert pairs[1].count(3) == pairs[0].count(5) > 1


def test_roberta_counts_positions_from_the_padding_id_which_stays():
    old = with_unused("wordpiece", [f"unused{index}" for index in range(6)], SPECIAL_TOKENS)
    assert old.pad_token_id == 6
    for family in ("roberta", "bert"):
        model = masked_model(old, family)
        trimmed = trim_vocabulary(model, old, CORPUS)
        assert trimmed.tokenizer.pad_token_id == (6 if family == "roberta" else 0)
        assert_same_outputs(model, trimmed.model, old, trimmed.tokenizer, trimmed.kept)


def test_a_word_that_is_unknown_to_wordpiece_stays_unknown():
    """Of abc, WordPiece takes ab and finds nothing for c; without ab it would take a and find bc."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS, "ab", "a", "##bc", "x", "unused"])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    old = PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)
    corpus = ["ABC a xbc"]
    assert old.tokenize(corpus[0]) == ["[UNK]", "a", "x", "##bc"]
    trimmed = trim_vocabulary(masked_model(old), old, corpus)
    assert trimmed.tokenizer.tokenize(corpus[0]) == old.tokenize(corpus[0])
    assert "unused" not in trimmed.tokenizer.get_vocab()


def test_what_an_unknown_character_costs_in_unigram_stays_the_same():
    """It is the lowest score less ten: without the piece of that score, a path through [UNK] would be the best."""
    specials = [(token, 0.0) for token in SPECIAL_TOKENS]
    pieces = [*specials, ("ab", -20.0), ("c", -20.0), ("bc", -2.0), ("zz", -30.0), ("unused", -9.0)]
    old = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.Unigram(pieces, unk_id=1)), **SPECIAL)
    corpus = ["abc", "bc"]
    assert [old.tokenize(text) for text in corpus] == [["ab", "c"], ["bc"]]
    trimmed = trim_vocabulary(masked_model(old), old, corpus)
    assert [trimmed.tokenizer.tokenize(text) for text in corpus] == [["ab", "c"], ["bc"]]
    assert "unused" not in trimmed.tokenizer.get_vocab()
    assert model_of(trimmed.tokenizer.backend_tokenizer)["vocab"][1] == ["[UNK]", 0.0]


@pytest.mark.parametrize("kind", ["byte_level_bpe", "word_end_bpe", "inside_bpe", "byte_fallback_bpe"])
def test_bpe_keeps_the_tokens_on_the_way_and_drops_other_merges(kind, tokenizers):
    old = tokenizers[kind]
    trimmed = trim_vocabulary(masked_model(old), old, ["unbelievable"])
    before, after = (model_of(each.backend_tokenizer) for each in (old, trimmed.tokenizer))
    assert 0 < len(after["merges"]) < len(before["merges"])
    assert [merge for merge in before["merges"] if merge in after["merges"]] == after["merges"]  # in their order
    prefix = before["continuing_subword_prefix"] or ""
    for left, right in before["merges"]:
        whole = left + right.removeprefix(prefix)
        assert ([left, right] in after["merges"]) == ({left, right, whole} <= set(after["vocab"]))


@pytest.mark.parametrize("kind", ["wordpiece", "byte_level_bpe", "unigram"])
def test_rare_tokens_and_a_largest_size(kind, tokenizers):
    old = tokenizers[kind]
    corpus = ["the the the film film director", "the film longest widest newest zzz"]
    counts = Counter(index for text in corpus for index in old(text, add_special_tokens=False)["input_ids"])
    whole = trim_vocabulary(masked_model(old), old, corpus)
    rare = trim_vocabulary(masked_model(old), old, corpus, min_count=2)
    small = trim_vocabulary(masked_model(old), old, corpus, max_size=len(rare.kept) + 1)
    assert len(rare.kept) < len(whole.kept)
    assert {index for index, count in counts.items() if count >= 2} <= set(rare.kept) < set(whole.kept)
    assert len(small.kept) <= len(rare.kept) + 1
    assert {index for index, _ in counts.most_common(2)} <= set(small.kept)
    for each in (rare, small):
        share = sum(counts[index] for index in set(each.kept)) / sum(counts.values())
        assert each.coverage == pytest.approx(share)
        assert 0 < each.coverage < 1
    least = len(trim_vocabulary(masked_model(old), old, corpus, min_count=99).kept)
    with pytest.raises(ModelError, match=f"(?s)at most {least - 1}.*Ask for {least} or more"):
        trim_vocabulary(masked_model(old), old, corpus, max_size=least - 1)
    assert len(trim_vocabulary(masked_model(old), old, corpus, max_size=least).kept) == least


def test_tokens_can_be_kept_by_name(tokenizers):
    old = tokenizers["byte_level_bpe"]
    token = max((token for token in old.get_vocab() if token not in BYTES), key=len)
    plain = trim_vocabulary(masked_model(old), old, ["a"]).tokenizer
    kept = trim_vocabulary(masked_model(old), old, ["a"], keep=[token]).tokenizer
    text = old.convert_tokens_to_string([token])
    assert token not in plain.get_vocab()
    assert kept.tokenize(text) == old.tokenize(text) == [token]
    with pytest.raises(ModelError, match=r"(?s)no such token.*Did you mean"):
        trim_vocabulary(masked_model(old), old, ["a"], keep=[token + "x"])


def test_prints_what_it_saves_and_goes_together_with_a_smaller_student(tokenizers):
    old = tokenizers["wordpiece"]
    teacher = tiny_model("bert", "example", vocab_size=len(old)).to(torch.bfloat16).train()
    trimmed = trim_vocabulary(teacher, old, CORPUS)
    assert trimmed.model.dtype == torch.bfloat16
    assert trimmed.model.training
    line = str(trimmed)
    assert f"{len(old)} -> {len(trimmed.kept)} tokens, 100.00% of the corpus" in line
    sizes = [sum(p.numel() for p in model.parameters()) for model in (teacher, trimmed.model)]
    assert f"{sizes[0]:,} -> {sizes[1]:,} parameters" in line
    assert "\n" not in line
    student = build_student(teacher, num_layers=2, hidden_size=16)
    small = trim_vocabulary(student, old, CORPUS)
    assert small.kept == trimmed.kept
    assert small.model.get_input_embeddings().weight.shape == (len(small.kept), 16)


def test_a_tokenizer_in_use_keeps_its_truncation_out_of_the_count(tokenizers):
    old = copy.deepcopy(tokenizers["wordpiece"])
    old(CORPUS, truncation=True, max_length=3, padding="max_length")
    trimmed = trim_vocabulary(masked_model(old), old, CORPUS)
    assert_same_tokens(tokenizers["wordpiece"], trimmed.tokenizer, trimmed.kept, CORPUS)


@pytest.mark.parametrize(
    ("texts", "words"), [("one text", "letters are no texts"), ([], "no token"), (["", " "], "no token")]
)
def test_no_corpus_is_refused(texts, words, tokenizers):
    with pytest.raises(DataError, match=words):
        trim_vocabulary(masked_model(tokenizers["wordpiece"]), tokenizers["wordpiece"], texts)


def test_what_cannot_be_trimmed_is_refused(tokenizers):
    old = tokenizers["wordpiece"]
    with pytest.raises(ModelError, match="slow tokenizer"):
        trim_vocabulary(masked_model(old), ByT5Tokenizer(), CORPUS)
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    with pytest.raises(ModelError, match=r"(?s)WordLevel tokenizer.*WordPiece, BPE, Unigram"):
        trim_vocabulary(masked_model(old), PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]"), CORPUS)
    with pytest.raises(ModelError, match=rf"go up to {len(old) - 1}, and the model has {len(old) - 1}"):
        trim_vocabulary(masked_model(old, extra=-1), old, CORPUS)


def test_classifiers_load_plainly(tokenizers, tmp_path):
    old = tokenizers["wordpiece"]
    model = AutoModelForSequenceClassification.from_config(CONFIGS["bert"](vocab_size=len(old), num_labels=3)).eval()
    trimmed = trim_vocabulary(model, old, CORPUS)
    trimmed.model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    before, after = (each(CORPUS[0], return_tensors="pt") for each in (old, trimmed.tokenizer))
    torch.testing.assert_close(loaded(**after).logits, model(**before).logits, rtol=0, atol=0)
