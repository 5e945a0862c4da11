"""Metrics of texts that a model has written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distil_nlp.data.words import in_word
from distil_nlp.errors import MissingExtraError
from distil_nlp.evaluation.bootstrap import RowTotals
from distil_nlp.evaluation.metrics.base import OfflineMetric, mean_of_rows, metric


class TextMetric(OfflineMetric):
    """Of texts, each compared with one reference."""

    takes = "text"

    def row_totals(self, references: Any, predictions: Any) -> RowTotals:
        """The mean over rows of :meth:`of_texts`."""
        pairs = zip(references, predictions, strict=True)
        return mean_of_rows([self.of_texts(reference, given) for reference, given in pairs])

    def of_texts(self, reference: str, given: str) -> float:
        """The metric of one row."""
        raise NotImplementedError


class Rouge(TextMetric):
    r"""The mean over rows of the F-measure of what a text shares with its reference.

    .. math:: F = \frac{2 P R}{P + R}, \quad P = \frac{\text{shared}}{\text{given}},
        \quad R = \frac{\text{shared}}{\text{of the reference}}

    Words are runs of letters, with the marks on them, and digits, in lower case; they are not stemmed.

    References:
        Lin (2004), ROUGE: A Package for Automatic Evaluation of Summaries, sections 2 (ROUGE-N) and 3.1 (ROUGE-L, over
        whole texts); with beta = 1, as Google's rouge_score has it. For texts in ASCII the values are those of
        rouge_score without its stemmer; published figures are often with it, and somewhat higher.
    """

    def of_texts(self, reference: str, given: str) -> float:
        ours, theirs = words(given), words(reference)
        shared, parts = self.shared(theirs, ours)
        return 2 * shared / parts if shared else 0.0

    def shared(self, reference: list[str], given: list[str]) -> tuple[int, int]:
        """How many units both texts share, and how many both have together."""
        raise NotImplementedError


@metric("rouge_1")
class Rouge1(Rouge):
    """ROUGE-1: shared words."""

    length = 1

    def shared(self, reference: list[str], given: list[str]) -> tuple[int, int]:
        theirs, ours = Counter(ngrams(reference, self.length)), Counter(ngrams(given, self.length))
        return (theirs & ours).total(), theirs.total() + ours.total()


@metric("rouge_2")
class Rouge2(Rouge1):
    """ROUGE-2: shared pairs of neighbouring words."""

    length = 2


@metric("rouge_l")
class RougeL(Rouge):
    """ROUGE-L: words of the longest common subsequence."""

    def shared(self, reference: list[str], given: list[str]) -> tuple[int, int]:
        return lcs_length(reference, given), len(reference) + len(given)


@metric("sequence_accuracy")
class SequenceAccuracy(TextMetric):
    """The share of texts that are their reference, but for white space."""

    def of_texts(self, reference: str, given: str) -> float:
        return float(reference.split() == given.split())


@metric("bleu")
class Bleu(TextMetric):
    """BLEU of the whole set, 0 to 1, as sacrebleu computes it by default (words by its tokenizer ``13a``).

    References:
        Papineni et al. (2002), BLEU: a Method for Automatic Evaluation of Machine Translation; Post (2018),
        arXiv:1804.08771.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        try:
            from sacrebleu.metrics.bleu import BLEU
        except ImportError as error:
            raise MissingExtraError("sacrebleu", "bleu") from error
        self._bleu = BLEU

    def row_totals(self, references: Any, predictions: Any) -> RowTotals:
        """Right and given n-grams for n of 1 to 4, and both lengths: BLEU is made of their sums."""
        of_row = self._bleu(effective_order=True)  # which matters for the score of one row only, and that is not read
        rows = []
        for reference, given in zip(references, predictions, strict=True):
            found = of_row.sentence_score(given, [reference])
            rows.append([*found.counts, *found.totals, found.sys_len, found.ref_len])

        return RowTotals(np.array(rows, dtype=np.float64), self.of_totals)

    @staticmethod
    def of_totals(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        from sacrebleu.metrics.bleu import BLEU

        sets = sums.reshape(-1, sums.shape[-1]).astype(int).tolist()
        values = [BLEU.compute_bleu(s[:4], s[4:8], s[8], s[9], smooth_method="exp").score / 100 for s in sets]
        return np.array(values).reshape(sums.shape[:-1])


def words(text: str) -> list[str]:
    """Runs of letters, the marks on them and digits, in lower case."""
    return "".join(each if in_word(each) else " " for each in text.lower()).split()


def ngrams(tokens: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    """Runs of so many tokens, in order."""
    return zip(*(tokens[start:] for start in range(length)), strict=False)


def lcs_length(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence of two lists of words.

    A row of the usual table is one whole number, whose bits say where the length does not grow.

    References:
        Crochemore, Iliopoulos, Pinzon, Reid (2001), A fast and practical bit-vector algorithm for the longest common
        subsequence problem.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << place
    everywhere = row = (1 << len(one)) - 1
    for word in other:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row & ~matches)) & everywhere
    return len(one) - row.bit_count()
