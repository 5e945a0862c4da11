"""ONNX export, checked against PyTorch before it is kept."""

from __future__ import annotations

from distil_nlp.export.generate import generate
from distil_nlp.export.graphs import Graphs, find_graphs
from distil_nlp.export.onnx_export import ExportResult, export_onnx
from distil_nlp.export.onnx_model import OnnxModel, open_onnx
from distil_nlp.export.optimum import ensure_environment
from distil_nlp.export.parity import Comparison, compare, onnx_logits, torch_forward, torch_logits
from distil_nlp.export.quantize import check_metric_drop
from distil_nlp.export.rules import check_rules
from distil_nlp.export.session import make_session

__all__ = [
    "Comparison",
    "ExportResult",
    "Graphs",
    "OnnxModel",
    "check_metric_drop",
    "check_rules",
    "compare",
    "ensure_environment",
    "export_onnx",
    "find_graphs",
    "generate",
    "make_session",
    "onnx_logits",
    "open_onnx",
    "torch_forward",
    "torch_logits",
]
