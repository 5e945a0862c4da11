"""Objectives on predictions, each for every kind of prediction, against twins that know nothing of items or masks."""

import inspect
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_models import tiny_model
from tiny_objectives import make, models, run, shapes, supported

from distil_nlp.objectives import (
    DIST,
    DKD,
    LogitsJSD,
    LogitsKL,
    LogitsMSE,
    LogitsReverseKL,
    LogitsSkewKL,
    LogitsTopKKL,
    LogitsTVD,
)
from distil_nlp.signals import Signals

MULTI_LABEL = "multi_label_classification"


def softmax(row, temperature):
    powers = np.exp((row - row.max()) / temperature)
    return powers / powers.sum()


def kl(p, q):
    return float((p * np.log(p / q)).sum())


def on_probabilities(value, temperature):
    """From a function of two distributions to one of two rows of logits and a target, with T²."""
    return lambda s, t, y: temperature**2 * value(softmax(s, temperature), softmax(t, temperature), y)


def merged(s, t, k):
    order = np.argsort(-t)
    coarse = [np.append(p[order[:k]], p[order[k:]].sum() if k < len(p) else []) for p in (s, t)]
    return kl(coarse[1], coarse[0])


def decoupled(s, t, y, alpha, beta):
    y = int(t.argmax()) if y is None else int(y)
    binary = [np.array([p[y], 1 - p[y]]) for p in (t, s)]
    others = [np.delete(p, y) / (1 - p[y]) for p in (t, s)]
    return alpha * (kl(*binary) if len(s) > 1 else 0.0) + beta * (kl(*others) if len(s) > 1 else 0.0)


def jsd(s, t, beta):
    m = beta * t + (1 - beta) * s
    return beta * kl(t, m) + (1 - beta) * kl(s, m)


# An objective, and the same for one item: from student logits, teacher logits and target (or None) to a number.
CASES = {
    "kl": (LogitsKL(temperature=3.0), on_probabilities(lambda s, t, y: kl(t, s), 3.0)),
    "reverse_kl": (LogitsReverseKL(temperature=2.0), on_probabilities(lambda s, t, y: kl(s, t), 2.0)),
    "jsd": (LogitsJSD(beta=0.3, temperature=2.0), on_probabilities(lambda s, t, y: jsd(s, t, 0.3), 2.0)),
    "skew": (LogitsSkewKL(alpha=0.2), on_probabilities(lambda s, t, y: kl(t, 0.2 * t + 0.8 * s), 1.0)),
    "skew_reverse": (
        LogitsSkewKL(alpha=0.2, direction="reverse", temperature=2.0),
        on_probabilities(lambda s, t, y: kl(s, 0.2 * s + 0.8 * t), 2.0),
    ),
    "tvd": (LogitsTVD(temperature=2.0), on_probabilities(lambda s, t, y: np.abs(s - t).sum() / 2, 2.0)),
    "mse": (LogitsMSE(), lambda s, t, y: float(((s - t) ** 2).mean())),
    "dkd": (DKD(beta=3.0, temperature=2.0), on_probabilities(lambda s, t, y: decoupled(s, t, y, 1.0, 3.0), 2.0)),
    "topk": (LogitsTopKKL(k=2), on_probabilities(lambda s, t, y: merged(s, t, 2), 2.0)),
}


def logits_of(model, made):
    """Logits without labels in the forward pass; both ends of spans stacked, ``[batch, 2, tokens]``."""
    with torch.no_grad():
        output = model(input_ids=made["input_ids"], attention_mask=made["attention_mask"])
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], dim=1).numpy()
    return output.logits.numpy()


def naive_items(kind, ours, theirs, made):
    """Each item as a list of (student row, teacher row, target), by loops; its value is the mean over the list."""
    mask, labels = made["attention_mask"].bool().numpy(), made.get("labels")
    for row in range(len(mask)):
        if kind == "span":
            keep = mask[row]
            ends = [None if name not in made else made[name][row] for name in ("start_positions", "end_positions")]
            yield [(ours[row, end][keep], theirs[row, end][keep], ends[end]) for end in (0, 1)]
        elif kind == MULTI_LABEL:
            yield [(np.array([s, 0.0]), np.array([t, 0.0]), None) for s, t in zip(ours[row], theirs[row], strict=True)]
        elif kind in ("token", "next_token"):
            shift = kind == "next_token"
            for place in range(mask.shape[1] - shift):
                label = labels[row, place + shift].item()
                if label != -100:
                    yield [(ours[row, place], theirs[row, place], label)]
        else:
            yield [(ours[row], theirs[row], None if labels is None else labels[row])]


def twin(kind, value, student, teacher, made, change=lambda row: row):
    ours, theirs = logits_of(student, made), logits_of(teacher, made)
    items = [
        np.mean([value(change(s), change(t), y) for s, t, y in parts])
        for parts in naive_items(kind, ours, theirs, made)
    ]
    return np.mean(items)


def sharp(kind):
    """Models in float64 whose predictions are far apart, and a batch of uneven lengths."""
    student, teacher = models(kind, dtype=torch.float64)
    made = make(kind)
    if kind == "span":
        made["start_positions"], made["end_positions"] = torch.tensor([3, 6, 0, 2]), torch.tensor([11, 6, 4, 2])
    return student, teacher, made


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name, (objective, _) in CASES.items()
        for kind in ("example", "token", "next_token", "span", MULTI_LABEL, "regression")
        if supported(objective.name, kind) and (name, kind) != ("mse", MULTI_LABEL)
    ],
)
def test_equals_a_loop_over_items(name, kind):
    student, teacher, made = sharp(kind)
    objective, value = CASES[name]
    got = run(objective, student, teacher, made)
    assert got > 1e-6
    assert got.item() == pytest.approx(twin(kind, value, student, teacher, made), rel=1e-9)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", CASES)
def test_what_stands_in_the_padding_does_not_matter(name, side):
    """Padding holds logits of any size, and positions that are ignored do, too."""
    objective = CASES[name][0]
    objective.bind(*shapes("token"))
    made = make("token")
    if side == "left":
        made = {key: value.flip(1) for key, value in made.items()}
    logits = [torch.randn(4, 12, 3, dtype=torch.float64) for _ in range(2)]
    ignored = made["labels"] == -100
    results = []
    for filling in (0.0, 1e30, math.nan):
        ours, theirs = (x.masked_fill(ignored.unsqueeze(-1), filling) for x in logits)
        ours.requires_grad_()
        value = objective(Signals(logits=ours), Signals(logits=theirs), made)
        value.backward()
        results.append((value.detach(), ours.grad))
        assert (ours.grad[ignored] == 0).all()
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])


@pytest.mark.parametrize("name", [name for name in CASES if name != "mse"])
def test_standardized_equals_a_loop_over_standardized_items(name):
    objective, value = CASES[name]
    given = {key: getattr(objective, key) for key in inspect.signature(type(objective)).parameters}
    twice = type(objective)(**{**given, "standardize": True})
    student, teacher, made = sharp("example")
    expected = twin("example", value, student, teacher, made, lambda row: (row - row.mean()) / (row.std() + 1e-7))
    assert run(twice, student, teacher, made).item() == pytest.approx(expected, rel=1e-9)


def test_standardized_mse_is_that_of_z_scores():
    student, teacher, made = sharp("example")
    value = CASES["mse"][1]
    expected = twin("example", value, student, teacher, made, lambda row: (row - row.mean()) / (row.std() + 1e-7))
    assert run(LogitsMSE(standardize=True), student, teacher, made).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", [MULTI_LABEL, "regression"])
def test_mse_of_labels_and_of_values_is_that_of_raw_outputs(kind):
    student, teacher, made = sharp(kind)
    expected = F.mse_loss(torch.from_numpy(logits_of(student, made)), torch.from_numpy(logits_of(teacher, made)))
    torch.testing.assert_close(run(LogitsMSE(), student, teacher, made), expected, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("kind", ["example", "token", "next_token", "span"])
def test_without_labels_the_target_is_the_teachers_first_choice(kind):
    student, teacher, made = sharp(kind)
    objective, value = CASES["dkd"]
    for name in ("labels", "start_positions", "end_positions"):
        made.pop(name, None)
    if kind in ("token", "next_token"):  # every token that is not padding counts then
        tokens = made["attention_mask"].bool()
        everywhere = made | {"labels": torch.where(tokens, -1, -100)}
        expected = twin(kind, lambda s, t, y: value(s, t, None), student, teacher, everywhere)
    else:
        expected = twin(kind, value, student, teacher, made)
    assert run(objective, student, teacher, made).item() == pytest.approx(expected, rel=1e-9)


def test_an_example_without_a_label_among_others_has_the_teachers_first_choice():
    student, teacher, made = sharp("example")
    objective, value = CASES["dkd"]
    made["labels"][1] = -100
    expected = twin("example", lambda s, t, y: value(s, t, None if y == -100 else y), student, teacher, made)
    assert run(objective, student, teacher, made).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", ["example", "token", "next_token"])
def test_dist_correlates_classes_of_an_item_and_items_of_a_class(kind):
    student, teacher, made = sharp(kind)
    rows = [parts[0] for parts in naive_items(kind, logits_of(student, made), logits_of(teacher, made), made)]
    ours, theirs = (np.stack([softmax(row[side], 2.0) for row in rows]) for side in (0, 1))
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(ours, theirs, strict=True)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(ours.T, theirs.T, strict=True)])
    got = run(DIST(beta=2.0, gamma=3.0, temperature=2.0), student, teacher, made)
    assert got.item() == pytest.approx(4.0 * (2 * inter + 3 * intra), rel=1e-8)


def test_dist_of_one_item_has_no_second_part():
    student, teacher, made = sharp("example")
    one = {key: value[:1] for key, value in made.items()}
    assert run(DIST(beta=0.0), student, teacher, one).item() == 0
    torch.testing.assert_close(run(DIST(), student, teacher, one), run(DIST(gamma=0.0), student, teacher, one))


def test_padding_rows_of_a_vocabulary_are_cut():
    sizes = [tiny_model("gpt2", "next_token", seed=seed, vocab_size=size).double() for seed, size in ((1, 64), (2, 65))]
    made = make("next_token")
    for objective, value in CASES.values():
        ours, theirs = logits_of(sizes[0], made), logits_of(sizes[1], made)[..., :64]
        items = [value(*parts[0]) for parts in naive_items("next_token", ours, theirs, made)]
        assert run(objective, *sizes, made).item() == pytest.approx(np.mean(items), rel=1e-9)


@pytest.mark.parametrize("name", [name for name in CASES if name != "mse"])
@pytest.mark.parametrize("kind", ["example", "span"])
def test_confidence_weighs_items_by_the_teachers_largest_probability(name, kind):
    objective, value = CASES[name]
    given = {key: getattr(objective, key) for key in inspect.signature(type(objective)).parameters}
    weighted = type(objective)(**{**given, "confidence": "max_prob"})
    student, teacher, made = sharp(kind)
    expected = twin(kind, lambda s, t, y: softmax(t, 1.0).max() * value(s, t, y), student, teacher, made)
    assert run(weighted, student, teacher, made).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("objective", [*(case[0] for case in CASES.values()), DIST(beta=2.0)])
def test_prints_what_it_was_made_with(objective):
    parameters = inspect.signature(type(objective)).parameters
    for name in set(parameters) - {"standardize", "confidence"}:
        assert f"{name}={getattr(objective, name)}" in repr(objective)
