"""How fast decoders write: tokens per second, once the prompt has been read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distil_nlp.evaluation.artefacts import Artefact, Batch
from distil_nlp.evaluation.efficiency import LatencyProtocol, measure_in_turns, on_cpu, torch_threads

LEAST_REPEATS = 3


def writing_table(
    artefacts: Sequence[Artefact],
    batch_of: Callable[[int], Batch],
    protocol: LatencyProtocol,
    *,
    new_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    r"""Tokens per second of every artefact at every batch size and number of threads, measured in turns.

    .. math:: \frac{\text{rows} \cdot n}{t_{1 + n} - t_1}

    where :math:`t_k` is the median time to continue a batch by k tokens: reading the prompt, which latency is about,
    gives the first of them. The likeliest token is taken each time, and the end of a text ends nothing. A tenth of the
    protocol's repeats is made, and no fewer than :data:`LEAST_REPEATS`.

    Args:
        artefacts: PyTorch models and onnxruntime sessions of decoders; those that cannot write are passed over.
        batch_of: A batch of so many prompts on the CPU, each ``sequence_length`` tokens long.
        protocol: How to measure.
        new_tokens: Timed tokens, n.
        progress: Called with (settings done, settings in all).

    Returns:
        For each artefact's name the rows of the ledger's ``writing``: ``{"tokens_per_second", "batch_size",
        "prompt_tokens", "new_tokens", "threads", "runtime"}``; None for one that is too quick to time.
    """
    artefacts = [artefact for artefact in artefacts if artefact.writes]
    rows: dict[str, list[dict[str, Any]]] = {artefact.name: [] for artefact in artefacts}
    settings = [(size, threads) for threads in protocol.thread_counts() for size in protocol.batch_sizes]
    for done, (batch_size, threads) in enumerate(settings):
        batch = batch_of(batch_size)
        with on_cpu(artefacts), torch_threads(threads):
            writers = [artefact.writing(batch, threads) for artefact in artefacts]
            calls = [write(count) for write in writers for count in (1, 1 + new_tokens)]
            repeats = max(LEAST_REPEATS, protocol.repeats // 10)
            times = [latency.p50 for latency in measure_in_turns(calls, repeats=repeats, warmup=1)]
        for artefact, first, whole in zip(artefacts, times[::2], times[1::2], strict=True):
            speed = 1e3 * batch_size * new_tokens / (whole - first) if whole > first else None
            setting = {"batch_size": batch_size, "threads": threads, "runtime": artefact.runtime}
            lengths = {"prompt_tokens": protocol.sequence_length, "new_tokens": new_tokens}
            rows[artefact.name].append({"tokens_per_second": speed, **setting, **lengths})
        if progress:
            progress(done + 1, len(settings))
    return rows
