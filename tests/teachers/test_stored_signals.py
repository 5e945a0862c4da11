"""What is read back is what the teacher gave, for every family and kind of prediction, wherever rows stand."""

import math
from functools import cache

import numpy as np
import pytest
import tiny_seq2seq
import torch
from small_runs import CPU, LOGITS, collate, counted, rows_of_lengths
from tiny_models import tiny_model

from distil_nlp.errors import DataError, ModelError
from distil_nlp.functional.attention import attention_probabilities
from distil_nlp.functional.divergence import topk_kl_divergence
from distil_nlp.signals import Needs, at_items, valid_items
from distil_nlp.teachers import ModelTeacher, StoredTeacher

FEATURES = Needs(hidden_states=frozenset({0, 2, 4}), attentions=frozenset({2, 4}))  # of ModernBERT, one is local
LENGTHS = (12, 3, 9, 1)


@cache
def model(family="bert", item="example", **config):
    return tiny_model(family, item, seed=2, **config)


def live(made, needs, *which, **config):
    teacher = ModelTeacher(model(*which, **config))
    teacher.prepare(needs, CPU)
    return teacher(made, needs)


def filled(folder, rows, needs, *which, config=None, **options):
    """A store that was filled in other batches, padded to another width, in another order."""
    stored = StoredTeacher(model(*which, **config or {}), folder, **options)
    stored.prepare(needs, CPU)
    for some in (rows[::-1][:3], rows):
        stored(collate(some, width=14), needs)
    stored.flush()
    reader = StoredTeacher(model(*which, **config or {}), folder, **options)
    reader.prepare(needs, CPU)
    reader._recording.running = lambda: pytest.fail("the teacher runs")
    return reader


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "llama", "modernbert", "deberta-v2"])
def test_features_are_found_in_any_batch(tmp_path, family, side):
    """Rotary and grouped-query attention, causal and local masks, finished maps; padding on either side."""
    rows = rows_of_lengths(LENGTHS)
    reader = filled(tmp_path, rows, FEATURES, family)
    got, expected = reader(collate(rows, side=side), FEATURES), live(collate(rows), FEATURES, family)
    for row, length in enumerate(LENGTHS):
        start = 12 - length if side == "left" else 0
        ours, theirs = slice(start, start + length), slice(0, length)
        for number in (0, 2, 4):
            torch.testing.assert_close(
                got.hidden_states[number][row, ours], expected.hidden_states[number][row, theirs], rtol=1e-4, atol=1e-5
            )
        for number in (2, 4):
            seen, wanted = got.attentions[number], expected.attentions[number]
            torch.testing.assert_close(
                attention_probabilities(seen, row, ours),
                attention_probabilities(wanted, row, theirs),
                rtol=1e-4,
                atol=1e-5,
            )
            assert (seen.value is None) == (wanted.value is None)
            if wanted.value is not None:
                assert seen.value.shape == wanted.value.shape
                torch.testing.assert_close(seen.value[row, :, ours], wanted.value[row, :, theirs], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "item"), [("bert", "example"), ("bert", "token"), ("bert", "span"), ("gpt2", "next_token")]
)
def test_logits_of_every_kind(tmp_path, family, item):
    rows = rows_of_lengths(LENGTHS, item=item)
    reader, expected = filled(tmp_path, rows, LOGITS, family, item), live(collate(rows), LOGITS, family, item).logits
    for side in ("right",) if item == "next_token" else ("right", "left"):
        got = reader(collate(rows, side=side), LOGITS).logits
        assert got.shape == expected.shape
        if item == "example":
            torch.testing.assert_close(got, expected)
            continue
        by_token = (z.transpose(1, 2) if item == "span" else z for z in (got, expected))
        for length, ours, theirs in zip(LENGTHS, *by_token, strict=True):
            ours = ours[:length] if side == "right" else ours[12 - length :]
            torch.testing.assert_close(ours, theirs[:length], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("family", "item"), [("bert", "masked"), ("gpt2", "next_token")])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_vocabulary_head_is_stored_once_and_its_inputs_at_items(tmp_path, family, item, dtype):
    needs, rows = Needs(vocabulary=True), rows_of_lengths(LENGTHS, item=item)
    made = collate(rows)
    reader = filled(tmp_path, rows, needs, family, item, dtype=dtype)
    got, expected = reader(made, needs).vocabulary, live(made, needs, family, item).vocabulary
    torch.testing.assert_close(
        got.logits(slice(1, 5)), expected.logits(slice(1, 5)), rtol=1e-2 if dtype == "int8" else 1e-4, atol=1e-4
    )
    items, kind = reader(made, LOGITS).logits, "next_token" if item == "next_token" else "token"
    torch.testing.assert_close(at_items(items, made, kind), got.logits(slice(None)))
    assert items.isnan().any(-1).sum() == items.shape[0] * items.shape[1] - valid_items(made, kind).sum()
    head = next(tmp_path.glob("*/head-*.safetensors"))
    head.write_bytes(head.read_bytes()[:-1] + b"\0")
    again = StoredTeacher(model(family, item), tmp_path, dtype=dtype)
    again.prepare(needs, CPU)
    torch.testing.assert_close(again(made, needs).vocabulary.logits(slice(None)), got.logits(slice(None)))


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("top_k", [None, 5])
def test_an_encoder_decoder_predicts_at_its_target(tmp_path, family, top_k):
    """Other labels are other inputs of the decoder; how far source and target are padded does not matter."""
    teacher, rows = tiny_seq2seq.tiny_seq2seq(family), tiny_seq2seq.seq2seq_rows()
    changed = {**rows[1], "labels": rows[1]["labels"].flip(0)}
    stored = StoredTeacher(teacher, tmp_path, top_k=top_k)
    stored.prepare(LOGITS, CPU)
    seen = counted(teacher)
    for some in ([rows[3], rows[1]], [rows[0], rows[4], rows[2]], rows, [*rows, changed], rows[:2]):
        made = tiny_seq2seq.collate(some)
        if len(some) == 7:  # as a collator gives them that knows the model
            labels = made["labels"]
            made["decoder_input_ids"] = teacher.prepare_decoder_input_ids_from_labels(labels=labels)
        got = at_items(stored(made, LOGITS).logits, made, "token")
        exact = at_items(ModelTeacher(teacher)(made, LOGITS).logits, made, "token")
        if top_k is None:
            torch.testing.assert_close(got, exact, rtol=1e-4, atol=1e-4)
        else:
            kept = exact.topk(top_k).indices
            torch.testing.assert_close(got.gather(-1, kept), exact.gather(-1, kept), rtol=1e-4, atol=1e-4)
    assert stored.num_rows == 6 + 7
    assert sum(seen) == 2 + 3 + 6 + 7 + 2 + 13


def test_other_labels_are_another_row(tmp_path):
    """Which predictions count decides what is stored, where not all are."""
    needs, rows = Needs(vocabulary=True), rows_of_lengths((9,), item="masked")
    stored = StoredTeacher(model("bert", "masked"), tmp_path)
    stored.prepare(needs, CPU)
    for row in (rows[0], {**rows[0], "labels": torch.arange(9) - 100}, {**rows[0], "labels": rows[0]["labels"] * 1}):
        made = collate([row])
        got, expected = stored(made, needs).vocabulary, live(made, needs, "bert", "masked").vocabulary
        torch.testing.assert_close(got.inputs, expected.inputs)
    assert stored.num_rows == 2


def test_what_a_teacher_reads_tells_rows_apart(tmp_path):
    """Segments and gaps in the mask do; labels and columns that it does not know do not."""
    row = rows_of_lengths((6,))[0]
    stored = StoredTeacher(model(), tmp_path)
    stored.prepare(LOGITS, CPU)
    segments, gap = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([1, 1, 0, 1, 1, 1])
    others = [
        {**row, "token_type_ids": segments},
        {**row, "token_type_ids": segments * 0},
        {**row, "attention_mask": gap},
        {**row, "input_ids": row["input_ids"].flip(0)},
        {"input_ids": row["input_ids"], "attention_mask": row["attention_mask"], "labels": row["labels"] + 1},
        {**row, "score": torch.tensor(0.5)},
        {"input_ids": row["input_ids"]},
        {**row, "input_ids": row["input_ids"].int()},
    ]
    for number, other in enumerate([row, *others]):
        made = collate([other])
        torch.testing.assert_close(stored(made, LOGITS).logits, live(made, LOGITS).logits, msg=str(number))
    assert stored.num_rows == 5


@pytest.mark.parametrize(
    ("family", "item"), [("bert", "masked"), ("bert", "token"), ("bert", "example"), ("gpt2", "next_token")]
)
def test_the_largest_logits_and_the_mass_of_the_others(tmp_path, family, item):
    needs = Needs(vocabulary=True) if item in ("masked", "next_token") else LOGITS
    rows, k = rows_of_lengths(LENGTHS, item="token" if item == "example" else item), 4
    rows = [{**row, "labels": torch.tensor(0)} for row in rows] if item == "example" else rows
    config = {"num_labels": 9} if item in ("token", "example") else {}
    made = collate(rows)
    reader = filled(tmp_path, rows, needs, family, item, config=config, top_k=k)
    kind = {"masked": "token"}.get(item, item)
    given = reader(made, needs)
    got = given.item_logits.logits(slice(None)) if needs.vocabulary else at_items(given.logits, made, kind)
    exact = at_items(live(made, LOGITS, family, item, **config).logits, made, kind)
    assert got.shape == exact.shape
    for ours, theirs in zip(got, exact, strict=True):
        p, q = theirs.softmax(-1), ours.softmax(-1)
        kept = p.argsort(descending=True)[:k]
        others = [v for v in range(len(p)) if v not in kept]
        torch.testing.assert_close(q[kept], p[kept], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(q[others], torch.full((len(others),), float(p[others].sum()) / len(others)))
    student = torch.randn_like(exact)
    for fewer in (1, 4):
        torch.testing.assert_close(
            topk_kl_divergence(student, got, k=fewer), topk_kl_divergence(student, exact, k=fewer), rtol=1e-4, atol=1e-5
        )
    if needs.vocabulary:
        torch.testing.assert_close(given.item_logits.logits(slice(2, 5)), got[2:5])


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_the_error_of_less_precision_is_measured(tmp_path, dtype):
    rows = rows_of_lengths(LENGTHS)
    needs = FEATURES | LOGITS
    stored = StoredTeacher(model(), tmp_path, dtype=dtype)
    stored.fill(rows, collate, batch_size=4, needs=needs)
    made = collate(rows)
    got, expected = stored(made, needs), live(made, needs)
    mask = made["attention_mask"].bool()
    exact = expected.hidden_states[2][mask].double()
    error = (got.hidden_states[2][mask].double() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert stored.errors["hidden_states.2"] == pytest.approx(float(error), rel=1e-3)
    assert 1e-5 < error < (5e-4 if dtype == "float16" else 1e-2)
    if dtype == "int8":  # a scale for each token
        steps = exact.abs().amax(-1, keepdim=True) / 127
        assert ((got.hidden_states[2][mask].double() - exact).abs() <= steps / 2 * 1.001).all()
        assert stored.size_mb < 0.5 * 4 * 1e-6 * sum(LENGTHS) * (3 * 32 + 2 * 3 * 32) + 0.01
    torch.testing.assert_close(got.logits, expected.logits, rtol=1e-3, atol=1e-4)
    assert set(stored.errors) == {"logits", "hidden_states.0", "hidden_states.2", "hidden_states.4"} | {
        f"attentions.{n}.{part}" for n in (2, 4) for part in ("query", "key", "value")
    }
    assert StoredTeacher(model(), tmp_path).errors == {}


def test_numbers_beyond_float16_are_refused(tmp_path):
    big = tiny_model()
    big.bert.encoder.layer[1].output.LayerNorm.weight.data.fill_(1e6)
    needs = Needs(hidden_states=frozenset({2}))
    rows = rows_of_lengths(LENGTHS)
    with pytest.raises(ModelError, match="65,504"):
        StoredTeacher(big, tmp_path, dtype="float16").fill(rows, collate, needs=needs)
    exact = live(collate(rows), needs)
    stored = StoredTeacher(big, tmp_path, dtype="int8")
    stored.fill(rows, collate, needs=needs)
    assert stored(collate(rows), needs).hidden_states[2].abs().max() > 1e5
    assert exact.hidden_states[2].abs().max() < 1e3


def test_one_row_twice_and_rows_without_tokens(tmp_path):
    row = rows_of_lengths((6,))[0]
    made = collate([row, row, {**row, "attention_mask": torch.zeros(6, dtype=torch.long)}])
    stored = StoredTeacher(model(), tmp_path)
    needs = Needs(logits=True, hidden_states=frozenset({4}))
    stored.prepare(needs, CPU)
    for _ in range(2):
        got = stored(made, needs)
        torch.testing.assert_close(got.logits[:2], live(made, needs).logits[:2])
        assert not got.hidden_states[4][2].any()
    assert torch.equal(got.logits[0], got.logits[1])  # both as stored; computed in one batch they may differ
    assert stored.num_rows == 2


def test_rows_first_seen_with_padding_on_the_left(tmp_path):
    """They are run as if it stood on the right, where BERT's positions are those of the row alone."""
    rows, needs = rows_of_lengths(LENGTHS, item="token"), Needs(logits=True, hidden_states=frozenset({4}))
    stored = StoredTeacher(model("bert", "token"), tmp_path)
    stored.prepare(needs, CPU)
    stored(collate(rows[1:], side="left"), needs)
    assert stored.num_rows == 3
    made = collate(rows)
    got, expected = stored(made, needs), live(made, needs, "bert", "token")
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(got.logits[row, :length], expected.logits[row, :length])
        torch.testing.assert_close(got.hidden_states[4][row, :length], expected.hidden_states[4][row, :length])


def test_rows_that_wait_are_written_when_other_needs_are_prepared(tmp_path):
    stored = StoredTeacher(model(), tmp_path)
    for needs in (LOGITS, Needs(hidden_states=frozenset({1}))):
        stored.prepare(needs, CPU)
        stored(collate(rows_of_lengths(LENGTHS)), needs)
    other = StoredTeacher(model(), tmp_path)
    other.prepare(LOGITS, CPU)
    assert other.num_rows == 4


def test_other_processes_rows_are_looked_for_before_the_teacher_runs(tmp_path):
    twin = tiny_model(seed=2)
    seen = counted(twin)
    readers = [StoredTeacher(tiny_model(seed=2), tmp_path), StoredTeacher(twin, tmp_path)]
    for reader in readers:
        reader.prepare(LOGITS, CPU)
    made = collate(rows_of_lengths(LENGTHS))
    first = readers[0](made, LOGITS).logits
    readers[0].flush()
    assert torch.equal(readers[1](made, LOGITS).logits, first)
    assert seen == []


def test_what_is_not_stored_is_refused(tmp_path):
    stored = StoredTeacher(model(), tmp_path)
    made = collate(rows_of_lengths(LENGTHS))
    with pytest.raises(ModelError, match="prepare"):
        stored(made, LOGITS)
    with pytest.raises(ModelError, match="Give needs"):
        stored.fill(rows_of_lengths(LENGTHS), collate)
    with pytest.raises(ModelError, match="own loss"):
        stored.prepare(Needs(loss=True), CPU)
    stored.prepare(LOGITS, CPU)
    with pytest.raises(ModelError, match=r"asked for .*hidden_states=frozenset\(\{2"):
        stored(made, Needs(hidden_states=frozenset({2})))
    stored.prepare(Needs(), CPU)
    assert stored(made, Needs()).logits is None
    for options, words in (({"top_k": 3}, "3 outputs"), ({"top_k": 0}, "above 0"), ({"dtype": "float"}, "float32")):
        with pytest.raises(ModelError, match=words):
            StoredTeacher(model(), tmp_path, **options).prepare(LOGITS, CPU)
    left = collate(rows_of_lengths(LENGTHS, item="next_token"), side="left")
    language = StoredTeacher(model("gpt2", "next_token"), tmp_path)
    language.prepare(Needs(vocabulary=True), CPU)
    with pytest.raises(DataError, match="Pad on the right"):
        language(left, Needs(vocabulary=True))

    class Own:
        shape, input_names = stored.shape, stored.input_names

        def prepare(self, needs, device): ...

        def __call__(self, batch, needs): ...

    with pytest.raises(ModelError, match="fingerprint"):
        StoredTeacher(Own(), tmp_path).prepare(LOGITS, CPU)
    StoredTeacher(Own(), tmp_path, fingerprint="mine").prepare(LOGITS, CPU)


def test_fingerprints(tmp_path):
    one = ModelTeacher(tiny_model(seed=2)).fingerprint()
    tiny_model(seed=2).save_pretrained(tmp_path)
    loaded = type(tiny_model()).from_pretrained(tmp_path)
    assert ModelTeacher(loaded).fingerprint() == one
    changed = tiny_model(seed=2)
    changed.classifier.bias.data[0] += 1e-6
    others = [changed, tiny_model(seed=3), tiny_model(seed=2).half(), tiny_model(seed=2, hidden_act="relu")]
    assert len({one, *(ModelTeacher(other).fingerprint() for other in others)}) == 5


def test_biases_that_are_more_than_a_mask_are_refused():
    from distil_nlp.signals import SelfAttention
    from distil_nlp.teachers.attention_records import put_attention
    from distil_nlp.teachers.packing import Packing

    states = torch.randn(1, 2, 4, 3)
    packing = Packing("float32")
    packing.start(1)
    for mask in (torch.randn(1, 1, 4, 4), torch.zeros(1, 2, 4, 4)):
        with pytest.raises(ModelError, match="more than a mask"):
            put_attention(packing, "a", SelfAttention(states, states, mask, value=states), [3])
    additive = torch.full((1, 1, 4, 4), torch.finfo(torch.float32).min).triu(1)
    put_attention(packing, "a", SelfAttention(states, states, additive, value=states), [3])
    assert packing.rows[0]["a.kind"].tolist() == [1]
    assert math.isclose(packing.rows[0]["a.scaling"][0], 1.0)
    assert isinstance(packing.rows[0]["a.mask"], np.ndarray)
