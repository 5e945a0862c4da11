"""What is timed: PyTorch models and onnxruntime sessions, made ready to answer a batch or to write text."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from distil_nlp.data.writing import writer
from distil_nlp.errors import ModelError
from distil_nlp.export.generate import generate
from distil_nlp.export.optimum_script import empty_past
from distil_nlp.export.parity import complete_batch

Batch = Mapping[str, Tensor]
Call = Callable[[], object]


class Artefact(Protocol):
    """Something that can be made ready to answer one batch with so many threads."""

    name: str
    runtime: str

    def ready(self, batch: Batch, threads: int) -> Call:
        """Returns a call without arguments that runs ``batch`` once."""

    def writing(self, batch: Batch, threads: int) -> Callable[[int], Call]:
        """Returns for a number of tokens a call without arguments that continues each row of ``batch`` by so many."""


class PyTorchArtefact:
    """A PyTorch model on the CPU, in ``eval()`` and under ``torch.inference_mode()``.

    Args:
        name: The artefact's name in the ledger.
        model: The model; moved to the CPU for the time being if it lives elsewhere.
    """

    runtime = "pytorch"

    def __init__(self, name: str, model: nn.Module) -> None:
        self.name, self.model = name, model

    def ready(self, batch: Batch, threads: int) -> Call:
        """Returns the forward pass of what the model takes of ``batch``; the caller sets the threads.

        An encoder-decoder reads the batch and writes the first token.
        """
        if getattr(getattr(self.model, "config", None), "is_encoder_decoder", False):
            return self.writing(batch, threads)(1)
        taken = inspect.signature(self.model.forward).parameters
        inputs = {name: value for name, value in batch.items() if name in taken}

        def call() -> object:
            with torch.inference_mode():
                return self.model(**inputs)

        return call

    def writing(self, batch: Batch, threads: int) -> Callable[[int], Call]:
        """Returns ``model.generate``, the likeliest token each time; the caller sets the threads."""
        model: Any = self.model
        return lambda tokens: partial(writer(model, num_beams=1, max_new_tokens=tokens, exactly=True), batch)


class OnnxArtefact:
    """An onnxruntime session on the CPU.

    Args:
        name: The artefact's name in the ledger.
        make_session: Makes a session that uses so many threads within an operator.
    """

    runtime = "onnxruntime"

    def __init__(self, name: str, make_session: Callable[[int], Any]) -> None:
        self.name, self.make_session = name, make_session

    def ready(self, batch: Batch, threads: int) -> Call:
        """Returns the session's run of ``batch``, inputs already as numpy arrays; of a cache, an empty one.

        Raises:
            ModelError: If the graph asks for an input that ``batch`` does not have.
        """
        session = self.make_session(threads)
        wanted = [graph_input.name for graph_input in session.get_inputs()]
        full = complete_batch(_arrays(batch), wanted)
        full |= empty_past(session, len(next(iter(full.values()))))
        if missing := sorted(set(wanted) - set(full)):
            raise ModelError(
                f"The latency of '{self.name}' was asked for.",
                f"Its graph wants {', '.join(missing)}; the batch has {', '.join(sorted(batch))}.",
                "Name these inputs in latency_batch, or export the model again.",
            )
        feed = {name: full[name] for name in wanted}
        return lambda: session.run(None, feed)

    def writing(self, batch: Batch, threads: int) -> Callable[[int], Call]:
        """Returns the search for the likeliest token each time, with the graph's cache if it has one."""
        session, prompts = self.make_session(threads), _arrays(batch)
        return lambda tokens: partial(generate, session, prompts, max_new_tokens=tokens)


def _arrays(batch: Batch) -> dict[str, Any]:
    return {name: value.numpy() for name, value in batch.items()}
