"""An ensemble's mean against loops over single predictions, and what it refuses."""

import math

import pytest
import torch
from tiny_models import VOCAB, batch, tiny_model

from distil_nlp.capture import capture
from distil_nlp.errors import ModelError
from distil_nlp.objectives import HiddenStates, LogitsKL, TaskLoss
from distil_nlp.signals import Needs, at_items
from distil_nlp.teachers import EnsembleTeacher, ModelTeacher, as_teacher
from distil_nlp.training import DistillationTrainer

CPU = torch.device("cpu")
LOGITS = Needs(logits=True)


def named(*labels, seed=0, family="bert", **config):
    id2label = dict(enumerate(labels))
    return tiny_model(
        family,
        seed=seed,
        num_labels=len(labels),
        id2label=id2label,
        label2id={v: k for k, v in id2label.items()},
        **config,
    )


def logits_of(model, made):
    with torch.no_grad():
        return model(**{k: made[k] for k in ("input_ids", "attention_mask")}).logits.double()


def entropy_confidence(z):
    p = z.softmax(-1)
    return 1 + sum(float(q) * math.log(float(q)) for q in p) / math.log(len(p))


def ask(ensemble, made, needs=LOGITS):
    ensemble.prepare(needs, CPU)
    return ensemble(made, needs)


def test_the_mean_of_probabilities_over_architectures():
    models, made = [tiny_model("bert", seed=1), tiny_model("gpt2", seed=2), tiny_model("distilbert", seed=3)], batch()
    got = ask(EnsembleTeacher(models, weights=[1, 2, 5]), made).logits
    expected = torch.zeros_like(got).double()
    for weight, model in zip([1, 2, 5], models, strict=True):
        expected += weight / 8 * logits_of(model, made).softmax(-1)
    torch.testing.assert_close(got.exp().double(), expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(got.exp().sum(-1), torch.ones(4))


def test_the_mean_of_logits_is_the_geometric_mean_at_every_temperature():
    models, made = [tiny_model(seed=1), tiny_model(seed=2)], batch()
    got = ask(EnsembleTeacher(models, average="logits"), made).logits
    torch.testing.assert_close(got.double(), (logits_of(models[0], made) + logits_of(models[1], made)) / 2)
    for temperature in (1.0, 4.0):
        softened = [(logits_of(model, made) / temperature).softmax(-1) for model in models]
        geometric = (softened[0] * softened[1]).sqrt()
        expected = geometric / geometric.sum(-1, keepdim=True)
        torch.testing.assert_close((got.double() / temperature).softmax(-1), expected)


@pytest.mark.parametrize("kind", ["entropy", "max_prob"])
def test_members_count_by_their_confidence_in_each_item(kind):
    models, made = [tiny_model(seed=1, initializer_range=0.5), tiny_model(seed=2, initializer_range=0.3)], batch()
    got = ask(EnsembleTeacher(models, weights=[3, 1], by_confidence=kind), made).logits
    both = [logits_of(model, made) for model in models]
    for row in range(4):
        zs = [z[row] for z in both]
        sure = [entropy_confidence(z) if kind == "entropy" else float(z.softmax(-1).max()) for z in zs]
        shares = [3 * sure[0], 1 * sure[1]]
        mean = sum(share * z.softmax(-1) for share, z in zip(shares, zs, strict=True)) / sum(shares)
        torch.testing.assert_close(got[row].exp().double(), mean, rtol=1e-4, atol=1e-6)


def test_labels_are_merged_by_name():
    """Each label is averaged over the members that know it, and the whole brought to sum 1."""
    first, second, made = named("Sad", "glad", seed=1), named("mad", "glad", "sad", seed=2), batch()
    ensemble = EnsembleTeacher([first, second], weights=[1, 3], labels=["glad", "mad", "sad"])
    p, q = logits_of(first, made).softmax(-1), logits_of(second, made).softmax(-1)
    expected = torch.stack([(p[:, 1] + 3 * q[:, 1]) / 4, q[:, 0], (p[:, 0] + 3 * q[:, 2]) / 4], dim=-1)
    expected /= expected.sum(-1, keepdim=True)
    torch.testing.assert_close(ask(ensemble, made).logits.exp().double(), expected, rtol=1e-5, atol=1e-7)
    assert ensemble.shape.num_outputs == 3
    assert ensemble.label_names == ("glad", "mad", "sad")


@pytest.mark.parametrize("by_confidence", [None, "entropy"])
def test_multi_label_means_are_label_by_label(by_confidence):
    problem = {"problem_type": "multi_label_classification", "initializer_range": 0.3}
    first, second, made = named("a", "b", seed=1, **problem), named("b", "c", seed=2, **problem), batch()
    ensemble = EnsembleTeacher([first, second], labels=["a", "b", "c"], by_confidence=by_confidence)
    got = ask(ensemble, made).logits.double().sigmoid()
    p, q = logits_of(first, made), logits_of(second, made)
    for row in range(4):
        shares = [1.0, 1.0]
        if by_confidence:
            shares = [entropy_confidence(torch.stack([z, z * 0])) for z in (p[row, 1], q[row, 0])]
        shared = (shares[0] * p[row, 1].sigmoid() + shares[1] * q[row, 0].sigmoid()) / sum(shares)
        expected = torch.stack([p[row, 0].sigmoid(), shared, q[row, 1].sigmoid()])
        torch.testing.assert_close(got[row], expected, rtol=1e-4, atol=1e-6)


def test_a_regression_is_the_mean_of_values():
    models, made = [tiny_model(seed=1, num_labels=1), tiny_model(seed=2, num_labels=1)], batch()
    got = ask(EnsembleTeacher(models, weights=[1, 3]), made).logits
    torch.testing.assert_close(got.double(), (logits_of(models[0], made) + 3 * logits_of(models[1], made)) / 4)
    with pytest.raises(ModelError, match="regressions"):
        EnsembleTeacher(models, by_confidence="entropy")


@pytest.mark.parametrize("by_confidence", [None, "max_prob"])
def test_spans_are_distributions_over_tokens_that_are_not_padding(by_confidence):
    models, made = [tiny_model(item="span", seed=s, initializer_range=0.3) for s in (1, 2)], batch("span")
    got = ask(EnsembleTeacher(models, by_confidence=by_confidence), made).logits
    with torch.no_grad():
        outputs = [model(input_ids=made["input_ids"], attention_mask=made["attention_mask"]) for model in models]
    for row, length in enumerate((12, 7, 9, 3)):
        for end, name in enumerate(("start_logits", "end_logits")):
            ps = [output[name][row, :length].softmax(-1) for output in outputs]
            shares = [float(p.max()) if by_confidence else 1.0 for p in ps]
            mean = sum(share * p for share, p in zip(shares, ps, strict=True)) / sum(shares)
            torch.testing.assert_close(got[row, end, :length].exp(), mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("family", "item"), [("bert", "masked"), ("gpt2", "next_token"), ("bert", "token")])
def test_tokens_and_large_vocabularies(family, item):
    """Heads not yet run are run a few items at a time; a vocabulary's padding rows are cut."""
    config = {} if item == "token" else {"vocab_size": VOCAB + 1}
    models, made = [tiny_model(family, item, seed=1), tiny_model(family, item, seed=2, **config)], batch(item)
    ensemble = EnsembleTeacher(models)
    size = 3 if item == "token" else VOCAB
    both = [logits_of(model, made)[..., :size].softmax(-1) for model in models]
    expected = ((both[0] + both[1]) / 2).log()
    torch.testing.assert_close(ask(ensemble, made).logits.double(), expected, rtol=1e-4, atol=1e-5)
    if item != "token":
        given = ask(ensemble, made, Needs(vocabulary=True))
        kind = "next_token" if item == "next_token" else "token"
        expected = at_items(expected, made, kind)
        assert given.logits is None
        assert len(expected) > 4
        for rows in (slice(0, 4), slice(4, None)):
            torch.testing.assert_close(given.item_logits.logits(rows).double(), expected[rows], rtol=1e-4, atol=1e-5)


def test_features_come_from_one_member_and_the_others_stop():
    models, made = [tiny_model(seed=1), tiny_model("distilbert", seed=2)], batch()
    ran = []
    for number, model in enumerate(models):
        model.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
    ensemble = EnsembleTeacher(models, features_from=1)
    features = Needs(hidden_states=frozenset({0, 2}), attentions=frozenset({1}))
    signals = ask(ensemble, made, features)
    assert ran == [1]
    assert signals.logits is None
    expected = capture(models[1], made, features)
    for number in (0, 2):
        torch.testing.assert_close(signals.hidden_states[number], expected.hidden_states[number])
    torch.testing.assert_close(signals.attentions[1].query, expected.attentions[1].query)
    both = ask(ensemble, made, features | LOGITS)
    assert ran == [1, 1, 0, 1]
    assert both.logits is not None
    assert both.hidden_states.keys() == {0, 2}


def test_a_member_that_has_nothing_to_give_is_not_asked():
    class Busy:
        def __init__(self):
            self.shape, self.input_names, self.asked = ModelTeacher(tiny_model()).shape, frozenset(), 0

        def prepare(self, needs, device): ...

        def __call__(self, batch, needs):
            self.asked += 1
            return capture(tiny_model(), batch, needs)

    busy, made = Busy(), batch()
    ask(EnsembleTeacher([tiny_model(), busy]), made, Needs(hidden_states=frozenset({1})))
    assert busy.asked == 0
    ask(EnsembleTeacher([tiny_model(), busy]), made)
    assert busy.asked == 1


def test_a_trainer_takes_a_list(tmp_path):
    from small_runs import trainer_of

    models = [tiny_model(seed=1), tiny_model("gpt2", seed=2)]
    trainer = trainer_of(tmp_path, models, terms=[TaskLoss(), LogitsKL(), HiddenStates()], max_steps=2)
    assert isinstance(trainer, DistillationTrainer)
    assert isinstance(trainer.teacher, EnsembleTeacher)
    trainer.train()
    assert all(log["logits_kl"] > 0 for log in trainer.state.log_history if "logits_kl" in log)
    assert "token_type_ids" in trainer.teacher.input_names


def test_as_teacher():
    model = tiny_model()
    assert isinstance(as_teacher([model]), ModelTeacher)
    assert isinstance(as_teacher((model, ModelTeacher(tiny_model(seed=1)))), EnsembleTeacher)
    for wrong in ([], "bert-base-uncased", ["bert-base-uncased"], None):
        with pytest.raises(ModelError, match="Load it first"):
            as_teacher(wrong)


def test_fingerprints_tell_ensembles_apart():
    models = [named("a", "b", seed=1), named("a", "b", seed=2)]
    same = [EnsembleTeacher(models).fingerprint(), EnsembleTeacher(models, weights=[1, 1]).fingerprint()]
    others = [
        EnsembleTeacher(models, weights=[1, 2]),
        EnsembleTeacher(models, average="logits"),
        EnsembleTeacher(models, labels=["b", "a"]),
        EnsembleTeacher(models, features_from=1),
        EnsembleTeacher(models[::-1]),
    ]
    assert same[0] == same[1]
    assert len({same[0], *(other.fingerprint() for other in others)}) == 6


@pytest.mark.parametrize(
    ("models", "options", "words"),
    [
        ([], {}, "There is none"),
        ([{}, {"item": "token"}], {}, "0: example.*1: token"),
        ([{}, {"problem_type": "multi_label_classification"}], {}, "problem_type"),
        ([{}, {"num_labels": 4}], {}, "3, 4 outputs.*labels="),
        ([{"item": "masked"}, {"item": "masked", "vocab_size": 80}], {}, "64, 80"),
        ([{}, {}], {"labels": ["a", "b", "c"]}, "no names"),
        ([{}, {}], {"weights": [1]}, "2 members"),
        ([{}, {}], {"weights": [1, 0]}, "above 0"),
        ([{}, {}], {"average": "logit"}, "Did you mean 'logits'"),
        ([{}, {}], {"by_confidence": True}, "entropy"),
        ([{}, {}], {"features_from": 2}, "Known: 0, 1"),
    ],
)
def test_what_does_not_go_together_is_refused(models, options, words):
    with pytest.raises(ModelError, match=f"(?s){words}"):
        EnsembleTeacher([tiny_model(**model) for model in models], **options)


def test_names_that_do_not_fit_are_refused():
    ab, ba, bc = named("a", "b"), named("b", "a"), named("b", "coda")
    with pytest.raises(ModelError, match=r"\(a, b\) and \(b, a\) differ"):
        EnsembleTeacher([ab, ba])
    with pytest.raises(ModelError, match=r"(?s)knows a label 'coda'.*Did you mean 'cod'"):
        EnsembleTeacher([ab, bc], labels=["a", "b", "cod"])
    with pytest.raises(ModelError, match="Nobody knows d"):
        EnsembleTeacher([ab, bc], labels=["a", "b", "coda", "d"])
    with pytest.raises(ModelError, match="average='probabilities'"):
        EnsembleTeacher([ab, bc], labels=["a", "b", "coda"], average="logits")
    with pytest.raises(ModelError, match="loss"):
        EnsembleTeacher([ab, ab]).prepare(Needs(loss=True), CPU)
