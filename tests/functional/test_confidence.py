import math

import numpy as np
import pytest
import torch
from tiny_models import batch, tiny_model

from distil_nlp.blocks import describe
from distil_nlp.errors import ModelError, RecipeError
from distil_nlp.functional.confidence import confidence
from distil_nlp.objectives import LogitsKL
from distil_nlp.signals import Signals


def naive(row, kind):
    exps = [math.exp(z - max(row)) for z in row]
    p = [e / sum(exps) for e in exps]
    if kind == "max_prob":
        return max(p)
    return 1 + sum(x * math.log(x) for x in p if x > 0) / math.log(len(p))


@pytest.mark.parametrize("kind", ["max_prob", "entropy"])
def test_against_a_loop(kind):
    logits = torch.randn(6, 5, dtype=torch.float64) * 4
    expected = [naive(row, kind) for row in logits.tolist()]
    np.testing.assert_allclose(confidence(logits, kind).numpy(), expected, atol=1e-12)
    assert confidence(logits.bfloat16(), kind).dtype == torch.float32


def test_the_ends_of_the_scale():
    sure = torch.tensor([[100.0, 0.0, -math.inf]])
    even = torch.zeros(1, 4)
    assert confidence(sure, "entropy").item() == pytest.approx(1)
    assert confidence(even, "entropy").item() == pytest.approx(0, abs=1e-6)
    assert confidence(even, "max_prob").item() == pytest.approx(0.25)
    assert confidence(torch.zeros(2, 1), "entropy").tolist() == [1, 1]
    assert not confidence(torch.zeros(1, 3, requires_grad=True), "max_prob").requires_grad


@pytest.mark.parametrize("kind", ["max_prob", "entropy"])
def test_an_item_counts_by_the_teachers_confidence_in_it(kind):
    ours, theirs = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    shape = describe(tiny_model())
    values = {}
    for name in (None, kind):
        objective = LogitsKL(temperature=4.0, confidence=name)
        objective.bind(shape, shape)
        values[name] = objective.values(Signals(logits=ours), Signals(logits=theirs), batch())
    trust = torch.tensor([naive(row, kind) for row in theirs.tolist()], dtype=torch.float64)
    torch.testing.assert_close(values[kind], trust * values[None], atol=1e-12, rtol=0)


def test_an_unknown_one_is_refused():
    with pytest.raises(RecipeError, match="Did you mean 'max_prob'"):
        LogitsKL(confidence="maxprob")


def test_a_regression_has_no_confidence():
    from distil_nlp.objectives import OBJECTIVES

    shape = describe(tiny_model(num_labels=1))
    objective = OBJECTIVES["logits_mse"]()
    objective.confidence = "max_prob"
    with pytest.raises(ModelError, match="has none"):
        objective.bind(shape, shape)
