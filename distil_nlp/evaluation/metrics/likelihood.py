"""Metrics of language models: how likely they find the tokens that are there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distil_nlp.errors import RecipeError
from distil_nlp.evaluation.bootstrap import RowTotals
from distil_nlp.evaluation.metrics.base import OfflineMetric, metric


class LikelihoodMetric(OfflineMetric):
    """Of rows of tokens, each with the sum of its negative log-likelihoods and how many of its first choices are right.

    Attributes:
        figure: Which of the two.
    """

    takes = "likelihood"
    checks_references = True
    figure: int

    @classmethod
    def check_references(cls, references: NDArray[Any]) -> None:
        """Refuses rows without a token to predict."""
        if not np.any(references):
            raise RecipeError(
                f"The metric '{cls.key}' is about tokens that are predicted.",
                f"The {len(references)} rows that are to be scored have none: they are too short, perhaps.",
                "Score other rows, or more of them.",
            )

    def row_totals(self, references: Any, predictions: Any) -> RowTotals:
        """The figure and the number of tokens of each row."""
        figures = np.asarray(predictions, dtype=np.float64)[:, self.figure]
        tokens = np.asarray(references, dtype=np.float64)
        return RowTotals(np.stack([figures, tokens], axis=1), self.of_totals)

    @staticmethod
    def of_totals(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """The figure a token, from figures and tokens, ``[..., 2]``; NaN without tokens."""
        top, tokens = sums[..., 0], sums[..., 1]
        return np.divide(top, tokens, out=np.full_like(top, np.nan), where=tokens > 0)


@metric("perplexity")
class Perplexity(LikelihoodMetric):
    r"""The exponential of the mean negative log-likelihood of a token; lower is better.

    .. math:: \exp\left(-\frac{1}{n} \sum_{i=1}^{n} \log p(y_i)\right)

    It is a figure of tokens, so that models with other tokenizers cannot be compared by it.
    """

    higher_is_better = False
    in_points = False
    figure = 0

    @staticmethod
    def of_totals(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.exp(LikelihoodMetric.of_totals(sums))


@metric("masked_accuracy")
class MaskedAccuracy(LikelihoodMetric):
    """The share of masked tokens whose likeliest prediction is right."""

    figure = 1


@metric("next_token_accuracy")
class NextTokenAccuracy(LikelihoodMetric):
    """The share of tokens whose likeliest prediction is right."""

    figure = 1
