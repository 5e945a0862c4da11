"""What a model costs to keep and to run: parameters, megabytes and milliseconds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from distil_nlp.errors import ModelError
from distil_nlp.evaluation.artefacts import Artefact, Batch, Call, PyTorchArtefact
from distil_nlp.weights import count_of, plain_tensors

TURN = 5
"""Timed calls that an artefact makes before the next one has its turn."""
SETTLE = 2
"""Untimed calls that open a turn: with several threads a call right after another runtime's is two to three times
slower, presumably as the other's threads still spin."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call: the median and the 95th percentile of ``repeats`` warm calls."""

    p50: float
    p95: float
    repeats: int


@dataclass(frozen=True)
class LatencyProtocol:
    """How latency is measured, the same for every artefact.

    Args:
        batch_sizes: Rows in a batch.
        threads: CPU threads; ``"all"`` is every core that this process may use.
        sequence_length: Tokens in a row, none of them padding.
        repeats: Timed calls per artefact, batch size and number of threads.
        warmup: Untimed calls before the first timed one.
    """

    batch_sizes: Sequence[int] = (1, 16)
    threads: Sequence[int | Literal["all"]] = (1, "all")
    sequence_length: int = 32
    repeats: int = 50
    warmup: int = 5

    def thread_counts(self) -> list[int]:
        """Numbers of threads, each once, in the order asked for."""
        return list(dict.fromkeys(available_threads() if n == "all" else n for n in self.threads))


def measure_in_turns(
    calls: Sequence[Call], *, repeats: int, warmup: int, clock: Callable[[], float] = time.perf_counter
) -> list[Latency]:
    """Times several calls in turns: :data:`SETTLE` untimed calls, :data:`TURN` timed ones, next.

    Args:
        calls: What to time, in round-robin order.
        repeats: Timed calls of each.
        warmup: Untimed calls of each before the first turn.
        clock: Reads the time in seconds.
    """
    for call in calls:
        for _ in range(warmup):
            call()
    seconds: list[list[float]] = [[] for _ in calls]
    for start in range(0, repeats, TURN):
        for call, taken in zip(calls, seconds, strict=True):
            for _ in range(SETTLE):
                call()
            for _ in range(min(TURN, repeats - start)):
                began = clock()
                call()
                taken.append(clock() - began)
    return [_latency(taken) for taken in seconds]


def latency_table(
    artefacts: Sequence[Artefact],
    batch_of: Callable[[int], Batch],
    protocol: LatencyProtocol | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Latency of every artefact at every batch size and number of threads, measured in turns.

    Args:
        artefacts: PyTorch models and onnxruntime sessions.
        batch_of: A batch of so many rows on the CPU, each ``sequence_length`` tokens long.
        protocol: How to measure.
        progress: Called with (settings done, settings in all).

    Returns:
        For each artefact's name the rows of the ledger's ``latencies``:
        ``{"p50", "p95", "batch_size", "sequence_length", "threads", "runtime", "repeats"}``, times in ms.

    Raises:
        ModelError: If a batch is not of the size or length that the rows would claim.
    """
    protocol = protocol or LatencyProtocol()
    rows: dict[str, list[dict[str, Any]]] = {artefact.name: [] for artefact in artefacts}
    settings = [(size, threads) for threads in protocol.thread_counts() for size in protocol.batch_sizes]
    for done, (batch_size, threads) in enumerate(settings):
        batch = _checked_batch(batch_of(batch_size), batch_size, protocol.sequence_length)
        with on_cpu(artefacts), torch_threads(threads):
            calls = [artefact.ready(batch, threads) for artefact in artefacts]
            latencies = measure_in_turns(calls, repeats=protocol.repeats, warmup=protocol.warmup)
        for artefact, latency in zip(artefacts, latencies, strict=True):
            row = {**asdict(latency), "batch_size": batch_size, "threads": threads}
            row |= {"sequence_length": protocol.sequence_length, "runtime": artefact.runtime}
            rows[artefact.name].append(row)
        if progress:
            progress(done + 1, len(settings))
    return rows


def latency_batch(
    batch_size: int,
    *,
    sequence_length: int,
    vocab_size: int,
    input_names: Sequence[str] = ("input_ids", "attention_mask"),
    seed: int = 0,
    last_id: int | None = None,
) -> dict[str, Tensor]:
    """A batch without padding: random token ids, a full attention mask, zeros for every other input.

    Args:
        batch_size: Rows.
        sequence_length: Tokens a row.
        vocab_size: Token ids are drawn below this.
        input_names: What the model takes: the tokenizer's ``model_input_names``.
        seed: Of the token ids.
        last_id: What each row ends in, if not a random token: some classifiers pool there.
    """
    shape = (batch_size, sequence_length)
    generator = torch.Generator().manual_seed(seed)
    batch = {name: torch.zeros(shape, dtype=torch.long) for name in input_names}
    batch["input_ids"] = torch.randint(vocab_size // 2, vocab_size, shape, generator=generator)
    if last_id is not None:
        batch["input_ids"][:, -1] = last_id
    if "attention_mask" in batch:
        batch["attention_mask"] = torch.ones(shape, dtype=torch.long)
    return batch


def available_threads() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def count_parameters(model: nn.Module) -> int:
    """Parameters of a model; tied ones count once."""
    return sum(map(count_of, model.parameters()))


def weights_mb(model: nn.Module) -> float:
    """Size of a model's weights in memory, in megabytes (bytes / 1e6); those that are quantized as they are held."""
    parts = (part for parameter in model.parameters() for part in plain_tensors(parameter))
    return sum(part.numel() * part.element_size() for part in parts) / 1e6


def size_mb(*folders: str | Path) -> float:
    """Size of the ``*.safetensors`` of folders in megabytes (bytes / 1e6).

    Raises:
        ModelError: If a folder has none.
    """
    return sum(file.stat().st_size for folder in folders for file in _weights_files(Path(folder))) / 1e6


def _weights_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        asked, fix = f"The size of the weights in {folder} was asked for.", "Give a folder with *.safetensors."
        raise ModelError(asked, "There are none.", fix)
    return files


def _latency(seconds: Sequence[float]) -> Latency:
    p50, p95 = np.quantile(seconds, [0.5, 0.95]) * 1e3
    return Latency(p50=float(p50), p95=float(p95), repeats=len(seconds))


def _checked_batch(batch: Batch, batch_size: int, sequence_length: int) -> Batch:
    shape = tuple(batch["input_ids"].shape)
    if shape != (batch_size, sequence_length):
        raise ModelError(
            f"Latency at batch size {batch_size} and {sequence_length} tokens was asked for.",
            f"The batch given has the shape {shape}.",
            "Give a batch of exactly this shape, so that the report's latency says what was measured.",
        )
    return batch


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Has PyTorch use so many threads for the time being."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def on_cpu(artefacts: Sequence[Artefact]) -> Iterator[None]:
    """Puts the PyTorch models on the CPU in ``eval()``, and back as they were."""
    models = [model for artefact in artefacts if isinstance(artefact, PyTorchArtefact) for model in artefact.models]
    before = [(model.training, next(model.parameters()).device) for model in models]
    try:
        for model in models:
            model.eval().to("cpu")
        yield
    finally:
        for model, (training, device) in zip(models, before, strict=True):
            model.train(training).to(device)
