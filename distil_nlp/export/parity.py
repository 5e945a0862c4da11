"""Is the ONNX graph the model that it was made from? Measured on real batches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from distil_nlp.errors import ExportError
from distil_nlp.export.decoder import Decoder, is_present, positions
from distil_nlp.export.job import Batch
from distil_nlp.export.optimum_script import empty_past
from distil_nlp.export.session import make_session, runtime_errors
from distil_nlp.signals import LABEL_NAMES

_SPANS = ("start_logits", "end_logits")

Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Comparison:
    """How far outputs are from a reference, over every batch, padding left out.

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
        """The one with the larger difference; NaN is the largest."""
        return self if not other.max_abs_diff > self.max_abs_diff and not np.isnan(other.max_abs_diff) else other


def input_names(onnx_path: Path | str) -> list[str]:
    """Returns the names of the graph's inputs."""
    return [value.name for value in make_session(onnx_path).get_inputs()]


def complete_batch(batch: Batch, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Adds the inputs that a graph asks for and that follow from the others.

    Those are ``position_ids``, counted over the unmasked tokens, and all-zero ``token_type_ids``.
    """
    full = {name: np.asarray(value, dtype=np.int64) for name, value in batch.items() if name not in LABEL_NAMES}
    if "position_ids" in names and "position_ids" not in full:
        full["position_ids"] = positions(_mask(full))
    if "token_type_ids" in names and "token_type_ids" not in full:
        full["token_type_ids"] = np.zeros_like(full["input_ids"])
    return full


def onnx_logits(
    onnx_path: Path | str, batches: Iterable[Batch], *, threads: int | None = None
) -> list[dict[str, np.ndarray]]:
    """Runs a graph on padded batches: :func:`onnx_forward` on each."""
    return [forward(batch) for forward in [onnx_forward(onnx_path, threads=threads)] for batch in batches]


def torch_logits(model: nn.Module, batches: Iterable[Batch]) -> list[dict[str, np.ndarray]]:
    """Runs a transformers model on padded batches: :func:`torch_forward` on each."""
    return [forward(batch) for forward in [torch_forward(model)] for batch in batches]


def onnx_forward(onnx_path: Path | str, *, threads: int | None = None) -> Callable[[Batch], Outputs]:
    """A graph as a function of padded batches, of which it is given only the inputs that it has.

    A decoder's graph with a cache is given an empty one.

    Args:
        onnx_path: The ``.onnx`` file.
        threads: As in `make_session`.

    Returns:
        From a mapping of ``input_ids``, ``attention_mask`` and the like, each ``[batch, tokens]``, to one from output
        name (``logits``, ``start_logits``, ...) to array. It raises ExportError if the graph does not run on a batch.

    Raises:
        ExportError: The file cannot be loaded.
    """
    session = make_session(onnx_path, threads)
    names = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs() if not is_present(value.name)]

    def forward(batch: Batch) -> Outputs:
        full = complete_batch(batch, names)
        feeds = {name: full[name] for name in names if name in full}
        feeds |= empty_past(session, len(full["input_ids"]))
        try:
            return dict(zip(outputs, session.run(outputs, feeds), strict=True))
        except runtime_errors() as error:
            shapes = ", ".join(f"{name} {value.shape}" for name, value in feeds.items())
            raise ExportError(
                f"Run {onnx_path} on {shapes}.",
                f"It failed: {error}",
                "Give the inputs that the graph asks for; if they are right, export again.",
            ) from error

    return forward


def decoder_forward(onnx_path: Path | str) -> Callable[[Batch], Outputs] | None:
    """A decoder's graph with a cache, given each batch in two parts: the second is run on what is kept of the first.

    Returns:
        As :func:`onnx_forward`; None for a graph without a cache.
    """
    decoder = Decoder(make_session(onnx_path))

    def forward(batch: Batch) -> Outputs:
        ids, mask = (np.asarray(value, dtype=np.int64) for value in (batch["input_ids"], _mask(batch)))
        half = -(-ids.shape[1] // 2)
        first, past = decoder.step(ids[:, :half], mask[:, :half])
        rest = [decoder.step(ids[:, half:], mask, past)[0]] if half < ids.shape[1] else []
        return {"logits": np.concatenate([first, *rest], axis=1)}

    return forward if decoder.cached else None


def torch_forward(model: nn.Module) -> Callable[[Batch], Outputs]:
    """A transformers model as a function of padded batches: the same shape of answer as `onnx_forward`.

    Of a batch it takes what the model takes, but for labels.
    """
    device = next((parameter.device for parameter in model.parameters()), None)

    @torch.inference_mode()
    def forward(batch: Batch) -> Outputs:
        inputs = model_inputs(model, batch)
        output = model(**{name: torch.as_tensor(value).to(device) for name, value in inputs.items()})
        return {name: _array(value) for name, value in output.items() if torch.is_tensor(value)}

    return forward


def model_inputs(model: nn.Module, batch: Batch) -> Batch:
    """What a model's forward pass takes of a batch, labels left out."""
    known = inspect.signature(model.forward).parameters
    return {name: value for name, value in batch.items() if name in known and name not in LABEL_NAMES}


def _array(value: torch.Tensor) -> np.ndarray:
    """Numpy has no bfloat16."""
    return (value.float() if value.is_floating_point() else value).cpu().numpy()


def compare(reference: Iterable[Outputs], outputs: Iterable[Outputs], batches: Iterable[Batch]) -> Comparison:
    """Compares outputs with a reference wherever ``attention_mask`` is 1, holding those of one batch at a time.

    Raises:
        ExportError: There is nothing to compare, or names or shapes differ.
    """
    diffs, scales, hits = [], [], []
    for expected, got, batch in zip(reference, outputs, batches, strict=True):
        for name, value in got.items():
            if name not in expected or expected[name].shape != value.shape:
                raise ExportError(
                    "Compare the ONNX outputs with PyTorch's.",
                    f"'{name}' {value.shape} has no counterpart among "
                    + ", ".join(f"'{known}' {array.shape}" for known, array in expected.items()),
                    "Was the checkpoint exported for the task that it was trained for?",
                )
            mask = _mask(batch).astype(bool)
            left, right = _unpadded(name, expected[name], mask), _unpadded(name, value, mask)
            diffs.append(np.abs(left - right).max(initial=0.0))
            scales.append(np.abs(left).max(initial=0.0))
            hits.append(_same_class(name, expected[name], value, mask))
    if not diffs:
        raise ExportError("Compare the ONNX outputs with PyTorch's.", "There are no batches or no outputs.")
    same = np.concatenate(hits)
    return Comparison(float(np.max(diffs)), float(np.max(scales)), float(same.mean()) if same.size else None)


def _mask(batch: Batch) -> np.ndarray:
    ids = np.asarray(batch["input_ids"])
    return np.asarray(batch.get("attention_mask", np.ones_like(ids)))


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
