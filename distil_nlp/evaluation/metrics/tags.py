"""Metrics of tagged words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from seqeval.metrics.sequence_labeling import get_entities

from distil_nlp.data.label_lists import is_entity_tag
from distil_nlp.errors import RecipeError
from distil_nlp.evaluation.bootstrap import RowTotals
from distil_nlp.evaluation.metrics.base import OfflineMetric, f1, metric, precision, recall


class EntityMetric(OfflineMetric):
    """Of entities: spans of words of one type, right where type, first and last word are (CoNLL's definition).

    References:
        Tjong Kim Sang & De Meulder (2003), Introduction to the CoNLL-2003 shared task; seqeval for reading tags.
    """

    takes = "tags"

    @classmethod
    def check_labels(cls, names: Sequence[str]) -> None:
        """Refuses tags of which some are neither ``O`` nor of the schemes IOB and IOBES, or none is of an entity."""
        marks = [name for name in names if is_entity_tag(name)]
        others = sorted({*names} - {*marks, "O"})
        if names and (others or not marks):
            raise RecipeError(
                f"The metric '{cls.key}' is for entities, by tags like O, B-PER and I-PER (E-PER and S-PER, too).",
                f"There are others: {', '.join(others[:10])}." if others else "There is only O.",
                "Use tag_accuracy (`metrics: [tag_accuracy]`), or write the tags of entities so.",
            )

    def row_totals(self, references: Any, predictions: Any) -> RowTotals:
        """Right, given and true entities of each row."""
        figures = np.empty((len(references), 3))
        for row, (true, given) in enumerate(zip(references, predictions, strict=True)):
            entities, found = set(get_entities(list(true))), set(get_entities(list(given)))
            figures[row] = len(entities & found), len(found), len(entities)
        return RowTotals(figures, self.of_totals)


@metric("entity_f1")
class EntityF1(EntityMetric):
    """The harmonic mean of entity precision and recall; 0 where undefined."""

    of_totals = staticmethod(f1)


@metric("entity_precision")
class EntityPrecision(EntityMetric):
    """The share of given entities that are right; 0 where none is given."""

    of_totals = staticmethod(precision)


@metric("entity_recall")
class EntityRecall(EntityMetric):
    """The share of true entities that are found; 0 where there are none."""

    of_totals = staticmethod(recall)


@metric("tag_accuracy")
class TagAccuracy(EntityMetric):
    """The share of words with the right tag."""

    @classmethod
    def check_labels(cls, names: Sequence[str]) -> None:
        """Tags may be of any kind."""

    def row_totals(self, references: Any, predictions: Any) -> RowTotals:
        rows = [
            (sum(a == b for a, b in zip(true, given, strict=True)), len(true))
            for true, given in zip(references, predictions, strict=True)
        ]
        return RowTotals(np.array(rows, dtype=np.float64).reshape(-1, 2), self.of_totals)
