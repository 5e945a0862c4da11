"""Metrics by name: ``evaluate.Metric`` objects that need no network, and the Hub's for every other name."""

from distil_nlp.evaluation.metrics import answers, classification, likelihood, numbers, tags, texts, vectors
from distil_nlp.evaluation.metrics.base import METRICS, TAKES, OfflineMetric
from distil_nlp.evaluation.metrics.load import compute_metrics, higher_is_better, in_points, load_metric

__all__ = [
    "METRICS",
    "TAKES",
    "OfflineMetric",
    "answers",
    "classification",
    "compute_metrics",
    "higher_is_better",
    "in_points",
    "likelihood",
    "load_metric",
    "numbers",
    "tags",
    "texts",
    "vectors",
]
