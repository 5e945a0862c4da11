"""A model's outputs over a split, in batches of rows of like length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from distil_nlp.data.batches import Lists, list_counts
from distil_nlp.data.collate import OnlyColumns
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
        batch_size: Rows in a batch, at most.
        most_tokens: Tokens in a batch that a model gives something for, at most, with padding; those of ``labels``
            where rows have them. A longer row is a batch by itself. None for no limit.
        description: Shown beside the progress bar.
    """

    def __init__(
        self,
        rows: Dataset,
        collator: Callable[[list[Any]], Any],
        *,
        batch_size: int,
        most_tokens: int | None = None,
        description: str = "",
    ) -> None:
        self.collator, self.description = collator, description
        lengths = list_counts(rows, "input_ids")
        self.order = np.argsort(lengths, kind="stable")
        if most_tokens is None:
            starts = list(range(0, len(rows), batch_size))
        else:
            told = list_counts(rows, "labels") if "labels" in rows.column_names else lengths
            starts = _starts(told[self.order], batch_size, most_tokens)
        self._chosen = np.split(self.order, starts[1:])  # rows of each batch
        if isinstance(collator, OnlyColumns):  # others may be long lists, which would be decoded for nothing
            rows = rows.select_columns([name for name in collator.columns if name in rows.column_names])
        self.rows = rows

    def __len__(self) -> int:
        return len(self._chosen)

    def __iter__(self) -> Iterator[Batch]:
        disable = None if self.description else True
        for index in tqdm(range(len(self)), desc=self.description, leave=False, disable=disable):
            yield self._batch(index)

    def _batch(self, index: int) -> Batch:
        batch = self.collator([self.rows[int(row)] for row in self._chosen[index]])
        return {name: np.asarray(value) for name, value in batch.items()}

    def samples(self, count: int) -> list[Batch]:
        """A few batches of different lengths."""
        return [self._batch(index) for index in np.linspace(0, len(self) - 1, min(count, len(self)), dtype=int)]

    def outputs(
        self,
        forward: Callable[[Batch], Mapping[str, Array]],
        keep: Callable[[Mapping[str, Array], Batch], list[Array]],
    ) -> Lists:
        """Runs a model on all rows, and puts together what is kept of its outputs, in the rows' own order.

        Args:
            forward: A model: from a batch to its outputs by name.
            keep: From outputs and batch to one array a row (:meth:`~distil_nlp.data.tasks.Task.keep`).
        """
        kept = [values for batch in self for values in keep(forward(batch), batch)]
        restored = [kept[place] for place in np.argsort(self.order)]
        counts = np.array([len(values) for values in restored])
        values = np.concatenate(restored)
        return Lists(values.astype(np.float32, copy=False) if values.dtype.kind == "f" else values, counts)


def _starts(lengths: NDArray[np.int64], batch_size: int, most_tokens: int) -> list[int]:
    """Where batches of rows with these lengths begin that are as large as may be."""
    starts, longest = [0], 0
    for row, length in enumerate(lengths.tolist()):
        count, longest = row - starts[-1] + 1, max(longest, length)
        if count > 1 and (count > batch_size or count * longest > most_tokens):
            starts.append(row)
            longest = length
    return starts


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


def teacher_forward(teacher: Teacher, device: torch.device | str = "cpu") -> Callable[[Batch], Mapping[str, Array]]:
    """A teacher, run on a device, as a function of padded batches, which gives what a model of its kind would."""
    needs, device = Needs(logits=True), torch.device(device)
    teacher.prepare(needs, device)

    @torch.inference_mode()
    def forward(batch: Batch) -> Mapping[str, Array]:
        tensors = {name: torch.as_tensor(value).to(device) for name, value in batch.items()}
        logits = teacher(tensors, needs).logits
        if logits is None:
            return {}
        if teacher.shape.item != "span":
            return {"logits": logits.float().cpu().numpy()}
        least = torch.finfo(torch.float32).min  # an ensemble gives 0 at padding, and log-probabilities elsewhere
        spans = logits.float().masked_fill(~valid_tokens(tensors).unsqueeze(1), least).cpu()  # [batch, 2, tokens]
        return {"start_logits": spans[:, 0].numpy(), "end_logits": spans[:, 1].numpy()}

    return forward
