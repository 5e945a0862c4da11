"""A training on stored outputs is the training with the teacher itself, and the teacher runs once on each row."""

import shutil

import pytest
import torch
from small_runs import collate, counted, rows_of_lengths, trained, trainer_of
from tiny_models import tiny_model
from transformers import TrainerCallback

from distil_nlp.objectives import Attentions, HiddenStates, LogitsKL, MiniLMv2, TaskLoss
from distil_nlp.signals import Needs
from distil_nlp.teachers import EnsembleTeacher, StoredTeacher


def teacher(item="example"):
    return tiny_model(item=item, seed=2, initializer_range=0.3)


def features():
    return [TaskLoss(), LogitsKL(), HiddenStates(weight=2.0), Attentions(weight=30.0), MiniLMv2()]


def assert_same(got, expected, *, rtol=1e-5, atol=1e-6, exact=False):
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        if exact:
            assert torch.equal(got[name], tensor), name
        else:
            torch.testing.assert_close(got[name], tensor, rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


def test_the_very_same_weights_where_batches_stay_the_same(tmp_path):
    options = {"train_sampling_strategy": "sequential", "terms": None}
    expected = trained(trainer_of(tmp_path, teacher(), **options))
    got = trained(trainer_of(tmp_path, StoredTeacher(teacher(), tmp_path / "store"), **options))
    assert_same(got, expected, exact=True)


@pytest.mark.parametrize(("terms", "accumulation"), [(None, 1), (None, 3), (features, 3)])
def test_the_same_weights_over_shuffled_epochs(tmp_path, terms, accumulation):
    options = {"gradient_accumulation_steps": accumulation, "num_train_epochs": 3}

    def train(given):
        return trained(trainer_of(tmp_path, given, terms=terms and terms(), **options))

    expected = train(teacher())
    live = teacher()
    stored = StoredTeacher(live, tmp_path / "store")
    seen = counted(live)
    got = train(stored)
    assert_same(got, expected, rtol=1e-4 if terms else 1e-5, atol=1e-5 if terms else 1e-6)
    assert sum(seen) == 12
    assert stored.num_rows == 12
    again = teacher()
    seen = counted(again)
    later = train(StoredTeacher(again, tmp_path / "store"))
    assert seen == []
    assert_same(later, got, exact=True)


def test_it_learns_from_the_teacher(tmp_path):
    """The comparison above would not notice a term that does nothing."""
    given = trained(trainer_of(tmp_path, StoredTeacher(teacher(), tmp_path / "store")))
    other = trained(trainer_of(tmp_path, StoredTeacher(tiny_model(seed=7), tmp_path / "store")))
    assert any((given[name] - other[name]).abs().max() > 1e-3 for name in given)
    assert len(list((tmp_path / "store").iterdir())) == 2


def test_after_a_resume(tmp_path):
    class StopsAtFour(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 4

    options = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 3, "save_total_limit": 1}
    expected = trained(trainer_of(tmp_path / "live", teacher(), **options))
    first = StoredTeacher(teacher(), tmp_path / "store")
    trainer_of(tmp_path / "stored", first, callbacks=[StopsAtFour()], **options).train()
    resumed = trainer_of(tmp_path / "stored", StoredTeacher(teacher(), tmp_path / "store"), **options)
    assert_same(trained(resumed, resume_from_checkpoint=True), expected)
    assert resumed.state.global_step == 9


@pytest.mark.parametrize("top_k", [None, 4])
def test_masked_words_over_a_vocabulary(tmp_path, top_k):
    """What the head reads is stored, not its logits, unless only the largest are wanted; both serve evaluation."""
    rows = rows_of_lengths(item="masked")

    def run(given):
        trainer = trainer_of(tmp_path, given, item="masked", rows=rows)
        assert trainer.needs[True][1] == Needs(vocabulary=True)
        return trained(trainer), trainer.evaluate()["eval_loss"]

    expected, loss = run(teacher("masked"))
    live = teacher("masked")
    seen = counted(live)
    got, got_loss = run(StoredTeacher(live, tmp_path / "store", top_k=top_k))
    assert sum(seen) == 2 + 12 + 3  # the head is tried on two rows
    if top_k is None:
        assert_same(got, expected)
        assert got_loss == pytest.approx(loss, rel=1e-5)
    else:
        assert any((got[name] - expected[name]).abs().max() > 1e-5 for name in got)

    def load():
        raise AssertionError("it is not needed")

    name = StoredTeacher(teacher("masked"), tmp_path / "store").fingerprint()
    later = StoredTeacher(load, tmp_path / "store", top_k=top_k, fingerprint=name)
    again, again_loss = run(later)
    assert_same(again, got, exact=True)
    assert again_loss == got_loss


def test_a_function_is_called_only_where_the_teacher_has_to_run(tmp_path):
    calls = []

    def load():
        calls.append(1)
        return teacher()

    for expected in (1, 1):  # the first time to be known at all
        stored = StoredTeacher(load, tmp_path / "store", fingerprint="mine")
        trained(trainer_of(tmp_path, stored))
        assert len(calls) == expected
        assert stored.label_names == ("LABEL_0", "LABEL_1", "LABEL_2")
    trained(trainer_of(tmp_path, stored, rows=rows_of_lengths((5, 6), seed=9)))
    assert len(calls) == 2


def test_filling_ahead(tmp_path, capsys):
    live = teacher()
    seen = counted(live)
    stored = StoredTeacher(live, tmp_path / "store")
    rows = rows_of_lengths()
    stored.fill(rows[:5], collate, batch_size=2, needs=Needs(logits=True))
    stored.fill(rows, collate, batch_size=4)
    assert sum(seen) == 12
    trained(trainer_of(tmp_path, stored, rows=rows))
    assert sum(seen) == 12


def test_more_that_is_stored_serves_those_who_need_less(tmp_path):
    live = teacher()
    seen = counted(live)
    needs = Needs(logits=True, hidden_states=frozenset({0, 2, 4}), attentions=frozenset({4}))
    StoredTeacher(live, tmp_path / "store").fill(rows_of_lengths(), collate, needs=needs)
    for terms in (None, [HiddenStates(mapping=[(2, 4), (4, 2)])], [LogitsKL(), MiniLMv2()]):
        trained(trainer_of(tmp_path, StoredTeacher(live, tmp_path / "store"), terms=terms))
    assert (sum(seen), len(list((tmp_path / "store").iterdir()))) == (12, 1)
    trained(trainer_of(tmp_path, StoredTeacher(live, tmp_path / "store"), terms=[HiddenStates(mapping=[(1, 1)])]))
    assert (sum(seen), len(list((tmp_path / "store").iterdir()))) == (24, 2)


def test_stores_of_members_and_a_store_of_an_ensemble(tmp_path):
    def models():
        return [teacher(), tiny_model("distilbert", seed=3, initializer_range=0.3)]

    expected = trained(trainer_of(tmp_path, models()))
    of_one = StoredTeacher(models(), tmp_path / "one")
    of_many = EnsembleTeacher([StoredTeacher(model, tmp_path / "many") for model in models()])
    for given, folder in ((of_one, "one"), (of_many, "many")):
        assert_same(trained(trainer_of(tmp_path, given)), expected)
        assert len(list((tmp_path / folder).glob("*/shard-*"))) == (1 if folder == "one" else 2)


def test_the_store_can_be_moved(tmp_path):
    stored = StoredTeacher(teacher(), tmp_path / "store")
    expected = trained(trainer_of(tmp_path, stored))
    shutil.copytree(tmp_path / "store", tmp_path / "elsewhere")
    live = teacher()
    seen = counted(live)
    assert_same(trained(trainer_of(tmp_path, StoredTeacher(live, tmp_path / "elsewhere"))), expected, exact=True)
    assert seen == []
