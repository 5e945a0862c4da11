"""A model's outputs over a split, in batches of rows of like length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from distil_nlp.data.tasks import Outputs
from distil_nlp.data.writing import writer
from distil_nlp.export import torch_forward
from distil_nlp.signals import Needs, valid_tokens
from distil_nlp.teachers import Teacher

Array = NDArray[Any]
Batch = Mapping[str, Array]


class PaddedBatches:
    """A split's rows as padded numpy batches, sorted by length so that little is padding.

    Args:
        rows: Tokenized rows.
        collator: Pads a list of rows.
        batch_size: Rows in a batch.
        description: Shown beside the progress bar.
    """

    def __init__(
        self, rows: Any, collator: Callable[[list[Any]], Any], *, batch_size: int, description: str = ""
    ) -> None:
        self.rows, self.collator, self.batch_size, self.description = rows, collator, batch_size, description
        lengths = [len(ids) for ids in rows["input_ids"]]
        self.order = np.argsort(lengths, kind="stable")

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        starts = range(0, len(self.order), self.batch_size)
        for start in tqdm(starts, desc=self.description, leave=False, disable=None if self.description else True):
            batch = self.collator([self.rows[int(row)] for row in self.order[start : start + self.batch_size]])
            yield {name: np.asarray(value) for name, value in batch.items()}

    def samples(self, count: int) -> list[Batch]:
        """A few batches of different lengths."""
        batches = list(PaddedBatches(self.rows, self.collator, batch_size=self.batch_size))
        return [batches[index] for index in np.linspace(0, len(batches) - 1, min(count, len(batches)), dtype=int)]

    def outputs(
        self,
        forward: Callable[[Batch], Mapping[str, Array]],
        keep: Callable[[Mapping[str, Array], Batch], list[Array]],
    ) -> Outputs:
        """Runs a model on all rows, and puts together what is kept of its outputs, in the rows' own order.

        Args:
            forward: A model: from a batch to its outputs by name.
            keep: From outputs and batch to one array a row (:meth:`~distil_nlp.data.tasks.Task.keep`).
        """
        kept = [values for batch in self for values in keep(forward(batch), batch)]
        restored = [kept[place] for place in np.argsort(self.order)]
        counts = np.array([len(values) for values in restored])
        values = np.concatenate(restored)
        return Outputs(values.astype(np.float32, copy=False) if values.dtype.kind == "f" else values, counts)


class TorchPredictor:
    """A PyTorch model as tasks take it (:class:`~distil_nlp.data.tasks.Predictor`), in ``eval()``."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: PreTrainedModel = model.eval()
        self._forward = torch_forward(self.model)

    def __call__(self, batch: Batch) -> Mapping[str, Array]:
        """The outputs of its forward pass."""
        return self._forward(batch)

    def writer(self, *, num_beams: int, max_new_tokens: int) -> Callable[[Batch], list[list[int]]]:
        """What writes a text for each row."""
        return writer(self.model, num_beams=num_beams, max_new_tokens=max_new_tokens)


def teacher_forward(teacher: Teacher) -> Callable[[Batch], Mapping[str, Array]]:
    """A teacher as a function of padded batches, which gives what a model of its kind would."""
    needs = Needs(logits=True)
    teacher.prepare(needs, torch.device("cpu"))

    @torch.inference_mode()
    def forward(batch: Batch) -> Mapping[str, Array]:
        tensors = {name: torch.as_tensor(value) for name, value in batch.items()}
        logits = teacher(tensors, needs).logits
        if logits is None:
            return {}
        if teacher.shape.item != "span":
            return {"logits": logits.float().numpy()}
        least = torch.finfo(torch.float32).min  # an ensemble gives 0 at padding, and log-probabilities elsewhere
        spans = logits.float().masked_fill(~valid_tokens(tensors).unsqueeze(1), least)  # [batch, 2, tokens]
        return {"start_logits": spans[:, 0].numpy(), "end_logits": spans[:, 1].numpy()}

    return forward
