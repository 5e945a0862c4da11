"""What is timed: PyTorch models and exported ones, made ready to answer a batch or to write text."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from distil_nlp.blocks import is_seq2seq
from distil_nlp.data.writing import writer
from distil_nlp.export import OnnxModel, generate

Batch = Mapping[str, Tensor]
Call = Callable[[], object]


class Artefact(Protocol):
    """Something that can be made ready to answer one batch with so many threads.

    Attributes:
        name: In the ledger.
        runtime: What runs it.
    """

    name: str
    runtime: str

    @property
    def writes(self) -> bool:
        """Whether it can continue texts, where its task is about that."""

    def ready(self, batch: Batch, threads: int) -> Call:
        """Returns a call without arguments that runs ``batch`` once."""

    def writing(self, batch: Batch, threads: int) -> Callable[[int], Call]:
        """Returns for a number of tokens a call without arguments that continues each row of ``batch`` by so many."""


class PyTorchArtefact:
    """A PyTorch model on the CPU, in ``eval()`` and under ``torch.inference_mode()``.

    Args:
        name: The artefact's name in the ledger.
        *models: The model; moved to the CPU for the time being if it lives elsewhere. Of an ensemble, its members,
            which answer one after another.
    """

    runtime = "pytorch"

    def __init__(self, name: str, *models: nn.Module) -> None:
        self.name, self.models = name, models

    @property
    def writes(self) -> bool:
        """Of an ensemble each member would write a text of its own."""
        return len(self.models) == 1

    def ready(self, batch: Batch, threads: int) -> Call:
        """Returns the forward pass of what the model takes of ``batch``; the caller sets the threads.

        An encoder-decoder reads the batch and writes the first token.
        """
        if any(map(is_seq2seq, self.models)):
            return self.writing(batch, threads)(1)
        taken = [inspect.signature(model.forward).parameters for model in self.models]
        inputs = [{name: value for name, value in batch.items() if name in names} for names in taken]

        def call() -> object:
            with torch.inference_mode():
                return [model(**values) for model, values in zip(self.models, inputs, strict=True)]

        return call

    def writing(self, batch: Batch, threads: int) -> Callable[[int], Call]:
        """Returns ``model.generate``, the likeliest token each time; the caller sets the threads."""
        model: Any = self.models[0]
        return lambda tokens: partial(writer(model, num_beams=1, max_new_tokens=tokens, exactly=True), batch)


class OnnxArtefact:
    """An exported model in onnxruntime on the CPU.

    Args:
        name: The artefact's name in the ledger.
        open_model: Opens it with so many threads within an operator.
    """

    runtime = "onnxruntime"
    writes = True

    def __init__(self, name: str, open_model: Callable[[int], OnnxModel]) -> None:
        self.name, self.open_model = name, open_model

    def ready(self, batch: Batch, threads: int) -> Call:
        """Returns the run of ``batch``, inputs already as numpy arrays; of a cache, an empty one.

        An encoder-decoder reads the batch and writes the first token.

        Raises:
            ExportError: If a graph asks for an input that ``batch`` does not have.
        """
        return self.open_model(threads).call(_arrays(batch))

    def writing(self, batch: Batch, threads: int) -> Callable[[int], Call]:
        """Returns the search for the likeliest token each time, with the graph's cache if it has one."""
        model, prompts = self.open_model(threads), _arrays(batch)
        return lambda tokens: partial(generate, model, prompts, max_new_tokens=tokens)


def _arrays(batch: Batch) -> dict[str, Any]:
    return {name: value.numpy() for name, value in batch.items()}
