"""What objectives on predictions refuse, before the first batch."""

import math

import pytest
from tiny_models import tiny_model
from tiny_objectives import shapes, supported

from distil_nlp.blocks import describe
from distil_nlp.errors import ModelError, RecipeError
from distil_nlp.objectives import (
    DIST,
    DKD,
    LogitsJSD,
    LogitsKL,
    LogitsMSE,
    LogitsReverseKL,
    LogitsSkewKL,
    LogitsTopKKL,
)

MULTI_LABEL = "multi_label_classification"


def test_two_classes_leave_dist_the_relation_between_items():
    two = [describe(tiny_model(num_labels=2, seed=seed)) for seed in (1, 2)]
    with pytest.raises(ModelError, match="1 or -1"):
        DIST().bind(*two)
    DIST(beta=0.0).bind(*two)


def test_two_classes_are_too_few_to_decouple():
    two = describe(tiny_model(num_labels=2))
    with pytest.raises(ModelError, match="logits_kl instead"):
        DKD().bind(two, two)


@pytest.mark.parametrize("objective", [LogitsKL, LogitsJSD, LogitsMSE, LogitsTopKKL])
def test_nothing_is_standardized_where_nothing_would_be_left(objective):
    """Two logits become 1 and -1, whatever the model says."""
    for model in (tiny_model(num_labels=2), tiny_model(item="token", num_labels=2)):
        with pytest.raises(ModelError, match="three classes or more"):
            objective(standardize=True).bind(describe(model), describe(model))
    for kind in (MULTI_LABEL, "regression"):
        if supported(objective.name, kind):
            with pytest.raises(ModelError, match="three classes or more"):
                objective(standardize=True).bind(*shapes(kind))
    objective(standardize=True).bind(*shapes("span"))


def test_heads_that_cannot_be_compared_are_refused():
    student, teacher = describe(tiny_model(num_labels=3)), describe(tiny_model(num_labels=4))
    with pytest.raises(ModelError, match="3 labels, the teacher 4"):
        LogitsKL().bind(student, teacher)
    with pytest.raises(ModelError, match="per example, the teacher per token"):
        LogitsKL().bind(student, describe(tiny_model(item="token")))
    with pytest.raises(ModelError, match="vocabulary has 3 rows"):
        LogitsKL().bind(describe(tiny_model(item="token")), describe(tiny_model(item="token", num_labels=5)))
    with pytest.raises(ModelError, match="problem type is None, the teacher's multi_label"):
        LogitsKL().bind(student, shapes(MULTI_LABEL)[1])


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (LogitsKL, {"temperature": 0}, "logits_kl.temperature is 0"),
        (LogitsReverseKL, {"temperature": -1}, "logits_reverse_kl.temperature is -1"),
        (LogitsJSD, {"beta": 1.1}, "logits_jsd.beta is 1.1"),
        (LogitsJSD, {"beta": math.nan}, "logits_jsd.beta is nan"),
        (LogitsSkewKL, {"alpha": 1.0}, "logits_skew_kl.alpha is 1.0"),
        (LogitsSkewKL, {"alpha": -0.1}, "logits_skew_kl.alpha is -0.1"),
        (LogitsSkewKL, {"direction": "reversed"}, "Did you mean 'reverse'"),
        (LogitsTopKKL, {"k": 0}, "logits_topk_kl.k is 0"),
        (LogitsTopKKL, {"k": 2.5}, "logits_topk_kl.k is 2.5"),
        (DKD, {"alpha": -1}, "dkd.alpha is -1"),
        (DKD, {"beta": -1}, "dkd.beta is -1"),
        (DIST, {"gamma": -1}, "dist.gamma is -1"),
    ],
)
def test_impossible_arguments_are_refused(kind, arguments, message):
    with pytest.raises(RecipeError, match=message):
        kind(**arguments)
