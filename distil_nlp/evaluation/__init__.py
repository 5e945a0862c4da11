"""Figures of a run: quality, efficiency and the ledger that holds them."""

from distil_nlp.evaluation.artefacts import OnnxArtefact, PyTorchArtefact
from distil_nlp.evaluation.bootstrap import correct_rows, metric_interval, paired_bootstrap
from distil_nlp.evaluation.efficiency import (
    LatencyProtocol,
    count_parameters,
    latency_batch,
    latency_table,
    size_mb,
)
from distil_nlp.evaluation.ledger import Ledger
from distil_nlp.evaluation.ledger_parts import LatencyRow, Row

__all__ = [
    "LatencyProtocol",
    "LatencyRow",
    "Ledger",
    "OnnxArtefact",
    "PyTorchArtefact",
    "Row",
    "correct_rows",
    "count_parameters",
    "latency_batch",
    "latency_table",
    "metric_interval",
    "paired_bootstrap",
    "size_mb",
]
