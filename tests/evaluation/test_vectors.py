"""Metrics of embeddings, against torch."""

import numpy as np
import pytest
import torch

from distil_nlp.errors import RecipeError
from distil_nlp.evaluation.bootstrap import metric_interval
from distil_nlp.evaluation.metrics import METRICS, compute_metrics

RIGHT = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
GIVEN = RIGHT + np.random.default_rng(1).normal(size=(30, 5)).astype(np.float32)


def test_it_is_the_mean_of_torchs_cosines():
    expected = torch.cosine_similarity(torch.from_numpy(RIGHT), torch.from_numpy(GIVEN)).mean()
    got = compute_metrics(["cosine_to_teacher"], takes="vector")(GIVEN, RIGHT)
    assert got == {"cosine_to_teacher": pytest.approx(expected.item(), abs=1e-6)}
    assert compute_metrics(["cosine_to_teacher"], takes="vector")(3 * RIGHT, RIGHT)["cosine_to_teacher"] == (
        pytest.approx(1, abs=1e-6)
    )


def test_an_embedding_of_zeros_is_like_nothing():
    given = np.stack([RIGHT[0], 0 * RIGHT[0]])
    found = METRICS["cosine_to_teacher"]().compute(predictions=given, references=RIGHT[:2])
    assert found == {"cosine_to_teacher": pytest.approx(0.5)}


def test_the_figures_of_rows_make_the_metric():
    interval = metric_interval(METRICS["cosine_to_teacher"]().row_totals, RIGHT, GIVEN, samples=50)
    expected = torch.cosine_similarity(torch.from_numpy(RIGHT), torch.from_numpy(GIVEN)).mean()
    assert interval.value == pytest.approx(expected.item(), abs=1e-6)
    assert interval.low < interval.value < interval.high


def test_it_is_refused_for_other_predictions():
    with pytest.raises(RecipeError, match="of the kind 'vector'; this task's are 'number'"):
        compute_metrics(["cosine_to_teacher"], takes="number")
