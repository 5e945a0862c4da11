"""Is the ONNX graph the model that it was made from? Measured on real batches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from distil_nlp.blocks import is_seq2seq
from distil_nlp.errors import ExportError
from distil_nlp.export.batches import Arrays, Batch, attention_mask, shift_labels
from distil_nlp.export.graphs import Graphs
from distil_nlp.export.onnx_model import open_onnx
from distil_nlp.signals import IGNORED, LABEL_NAMES

_SPANS = ("start_logits", "end_logits")


@dataclass(frozen=True)
class Comparison:
    """How far outputs are from a reference, over every batch, padding left out; of several, the farthest.

    Attributes:
        max_abs_diff: The largest absolute difference; NaN if either side has one.
        largest: The largest absolute value of the reference, the scale to judge the difference by.
        agreement: The share of equal argmax predictions; None if the model predicts no class.
    """

    max_abs_diff: float
    largest: float
    agreement: float | None

    def within(self, tolerance: float) -> bool:
        """Says if the difference is at most ``tolerance`` of the largest reference value; NaN never is."""
        return self.max_abs_diff <= tolerance * self.largest

    def worse_of(self, other: Comparison) -> Comparison:
        """The one with the larger difference for its scale; NaN is the largest."""
        return max(self, other, key=lambda each: _distance(each.max_abs_diff, each.largest))


def onnx_logits(
    exported: Graphs | Path | str, batches: Iterable[Batch], *, threads: int | None = None
) -> list[dict[str, np.ndarray]]:
    """Runs an exported model on padded batches (:func:`~distil_nlp.export.open_onnx`)."""
    model = open_onnx(exported, threads)
    return [model(batch) for batch in batches]


def torch_logits(model: nn.Module, batches: Iterable[Batch]) -> list[dict[str, np.ndarray]]:
    """Runs a transformers model on padded batches: :func:`torch_forward` on each."""
    return [forward(batch) for forward in [torch_forward(model)] for batch in batches]


def torch_forward(model: nn.Module) -> Callable[[Batch], Arrays]:
    """A transformers model as a function of padded batches: the same shape of answer as an exported one's.

    Of a batch it takes what the model takes, but for labels; the decoder of an encoder-decoder reads what its model
    makes of them.
    """
    device = next((parameter.device for parameter in model.parameters()), None)

    @torch.inference_mode()
    def forward(batch: Batch) -> Arrays:
        inputs = model_inputs(model, batch)
        output = model(**{name: torch.as_tensor(value).to(device) for name, value in inputs.items()})
        return {name: _array(value) for name, value in output.items() if torch.is_tensor(value)}

    return forward


def model_inputs(model: nn.Module, batch: Batch) -> Batch:
    """What a model's forward pass takes of a batch, labels left out."""
    known = inspect.signature(model.forward).parameters
    given = {name: value for name, value in batch.items() if name in known and name not in LABEL_NAMES}
    writes = isinstance(model, PreTrainedModel) and is_seq2seq(model)
    if writes and "decoder_input_ids" not in given and "labels" in batch:
        given["decoder_input_ids"] = shift_labels(model, batch["labels"])
    return given


def _array(value: torch.Tensor) -> np.ndarray:
    """Numpy has no bfloat16."""
    return (value.float() if value.is_floating_point() else value).cpu().numpy()


def compare(reference: Iterable[Arrays], outputs: Iterable[Arrays], batches: Iterable[Batch]) -> Comparison:
    """Compares outputs with a reference wherever a token is not padding, holding those of one batch at a time.

    Raises:
        ExportError: There is nothing to compare, or names or shapes differ.
    """
    diffs: dict[str, list[float]] = {}
    scales: dict[str, list[float]] = {}
    hits = []
    for expected, got, batch in zip(reference, outputs, batches, strict=True):
        for name, value in got.items():
            _check_counterpart(name, value, expected)
            mask = _mask(name, batch)
            left, right = _unpadded(name, expected[name], mask), _unpadded(name, value, mask)
            diffs.setdefault(name, []).append(np.abs(left - right).max(initial=0.0))
            scales.setdefault(name, []).append(np.abs(left).max(initial=0.0))
            hits.append(_same_class(name, expected[name], value, mask))
    if not diffs:
        raise ExportError("Compare the ONNX outputs with PyTorch's.", "There are no batches or no outputs.")
    farthest = max(diffs, key=lambda name: _distance(np.max(diffs[name]), np.max(scales[name])))
    same = np.concatenate(hits)
    return Comparison(
        float(np.max(diffs[farthest])),
        float(np.max(scales[farthest])),
        float(same.mean()) if same.size else None,
    )


def _check_counterpart(name: str, value: np.ndarray, expected: Arrays) -> None:
    if name not in expected or expected[name].shape != value.shape:
        raise ExportError(
            "Compare the ONNX outputs with PyTorch's.",
            f"'{name}' {value.shape} has no counterpart among "
            + ", ".join(f"'{known}' {array.shape}" for known, array in expected.items()),
            "Was the checkpoint exported for the task that it was trained for?",
        )


def _distance(diff: float, largest: float) -> float:
    """A difference as a share of the reference; NaN is infinitely far."""
    if np.isnan(diff) or np.isnan(largest):
        return float("inf")
    return diff / largest if largest else float(diff and np.inf)


def _mask(name: str, batch: Batch) -> np.ndarray:
    """Which tokens are not padding: of what an encoder has read, or of what a decoder has."""
    if "decoder_input_ids" in batch and name != "encoder_last_hidden_state":
        return np.asarray(batch.get("labels", batch["decoder_input_ids"])) != IGNORED
    return attention_mask(batch).astype(bool)


def _unpadded(name: str, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Keeps the real tokens of an output that has one value or vector a token; others pass as they are."""
    by_token = values.ndim == 3 or name in _SPANS
    return values[mask] if by_token else values


def _same_class(name: str, expected: np.ndarray, got: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns, for each prediction, whether both sides choose the same class; empty if none is predicted."""
    if name in _SPANS:
        expected, got = np.where(mask, expected, -np.inf), np.where(mask, got, -np.inf)
    elif name == "logits" and expected.shape[-1] > 1:
        expected, got = _unpadded(name, expected, mask), _unpadded(name, got, mask)
    else:
        return np.empty(0, dtype=bool)
    return (expected.argmax(axis=-1) == got.argmax(axis=-1)).ravel()
