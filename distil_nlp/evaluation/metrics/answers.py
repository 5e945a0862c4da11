"""Metrics of answers in words, of which any of several may be right."""

from __future__ import annotations

import re
import string
from collections import Counter
from typing import Any

from distil_nlp.evaluation.bootstrap import RowTotals
from distil_nlp.evaluation.metrics.base import OfflineMetric, mean_of_rows, metric

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


class AnswerMetric(OfflineMetric):
    """The mean over questions of the best score that an answer has beside any of the right ones.

    No answer is an empty text, and right where there is no right one. Case, ASCII punctuation, English articles and
    white space do not count.

    References:
        The evaluation script of SQuAD 2.0 (Rajpurkar et al. 2018, arXiv:1806.03822), here from 0 to 1, not 100. With
        a right answer to each question it gives what that of SQuAD 1.1 does.
    """

    takes = "answer"

    def row_totals(self, references: Any, predictions: Any) -> RowTotals:
        scores = []
        for right, given in zip(references, predictions, strict=True):
            words = [truth for truth in map(answer_words, right) if truth] or [[]]
            scores.append(max(self.of_answer(truth, answer_words(given)) for truth in words))
        return mean_of_rows(scores)

    @staticmethod
    def of_answer(right: list[str], given: list[str]) -> float:
        """One answer's score beside one right answer, both as words that count."""
        raise NotImplementedError


@metric("exact_match")
class ExactMatch(AnswerMetric):
    """The share of answers that are word for word a right one."""

    @staticmethod
    def of_answer(right: list[str], given: list[str]) -> float:
        return float(right == given)


@metric("squad_f1")
class SquadF1(AnswerMetric):
    """The mean F1 of the words of an answer and of the right one that is nearest."""

    @staticmethod
    def of_answer(right: list[str], given: list[str]) -> float:
        if not right or not given:
            return float(right == given)
        return 2 * (Counter(right) & Counter(given)).total() / (len(right) + len(given))


def answer_words(answer: str) -> list[str]:
    """The words of an answer that count."""
    return _ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split()
