"""From a teacher's signals to rows that can be stored, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from distil_nlp.errors import ModelError
from distil_nlp.signals import Batch, ItemLogits, Needs, Shape, Signals, VocabularyHead, at_items, valid_tokens
from distil_nlp.teachers.attention_records import attention_of, put_attention
from distil_nlp.teachers.packing import Packing, by_rows, placed, unpacked
from distil_nlp.teachers.row_keys import Rows
from distil_nlp.teachers.store import Row

LOGITS, VALUES, INDICES, TAIL, HEAD_INPUTS = "logits", "logits.values", "logits.indices", "logits.tail", "head_inputs"
_CHUNK = 2**22  # logits of a vocabulary that are looked through at a time


@dataclass(frozen=True)
class Contents:
    """What is stored of each row.

    Attributes:
        needs: Logits, or in their place the predictions of a vocabulary head that count; hidden states; attention.
        shape: The teacher's measures.
        top_k: Number of classes whose logits are stored, beside what the others amount to; all if None.
    """

    needs: Needs
    shape: Shape
    top_k: int | None = None

    @property
    def item(self) -> str | None:
        """What a prediction is, if predictions are stored."""
        return self.shape.item if self.needs.head else None

    @property
    def by_item(self) -> bool:
        """Whether only predictions that count are stored, and not those of all tokens."""
        return self.needs.vocabulary

    def covers(self, needs: Needs) -> bool:
        """Whether what is stored serves some needs."""
        return (
            (self.needs.head or not needs.head)
            and (self.needs.vocabulary or not needs.vocabulary)
            and self.needs.hidden_states >= needs.hidden_states
            and self.needs.attentions >= needs.attentions
        )


def rows_from(signals: Signals, batch: Batch, rows: Rows, contents: Contents, packing: Packing) -> list[Row]:
    """What is to be stored of a teacher's signals, row by row.

    Args:
        signals: The teacher's, for a batch padded on the right if at all.
        batch: That batch.
        rows: Its rows.
        contents: What to store.
        packing: How precisely.
    """
    packing.start(len(rows.keys))
    if contents.needs.head:
        _put_predictions(packing, signals, batch, rows, contents)
    for number in sorted(contents.needs.hidden_states):
        packing.put(_hidden(number), by_rows(signals.hidden_states[number], rows.counts), rows.counts)
    for number in sorted(contents.needs.attentions):
        put_attention(packing, _attention(number), signals.attentions[number], rows.counts)
    return list(packing.rows)


def _put_predictions(packing: Packing, signals: Signals, batch: Batch, rows: Rows, contents: Contents) -> None:
    if contents.by_item and contents.top_k is None and signals.vocabulary is not None:
        packing.put(HEAD_INPUTS, signals.vocabulary.inputs, rows.item_counts, feature=False)
        return
    logits: ItemLogits | Tensor | None = signals.logits
    if contents.by_item:
        counts = rows.item_counts
        logits = signals.vocabulary or signals.item_logits
        if logits is None and signals.logits is not None:
            logits = at_items(signals.logits, batch, contents.item)
    elif signals.logits is not None and contents.item == "example":
        counts = [1] * len(rows.keys)
    elif signals.logits is not None:
        counts = rows.counts
        by_token = signals.logits.transpose(1, 2) if contents.item == "span" else signals.logits
        logits = by_rows(by_token, counts)
    if logits is None:
        raise ModelError("A teacher's logits were to be stored.", "It gave none.", "Give it a head.")
    _put_logits(packing, logits, counts, contents)


def _put_logits(packing: Packing, logits: ItemLogits | Tensor, counts: Sequence[int], contents: Contents) -> None:
    """Adds logits, ``[sum of counts, classes]``, a few at a time."""
    step = max(1, _CHUNK // max(contents.shape.num_outputs, 1))
    chunks = [slice(start, start + step) for start in range(0, max(sum(counts), 1), step)]
    parts = [logits[rows] if isinstance(logits, Tensor) else logits.logits(rows) for rows in chunks]
    if contents.top_k is None:
        packing.put(LOGITS, torch.cat(parts), counts, feature=False)
        return
    if parts[0].shape[-1] != contents.shape.num_outputs:
        raise ModelError(
            "The teacher's largest logits were to be stored (top_k).",
            f"Its head has {parts[0].shape[-1]:,} outputs, and its configuration says {contents.shape.num_outputs:,}.",
            "Correct its configuration, or leave top_k out.",
        )
    values, indices, tails = zip(*(_largest(part.float(), contents.top_k) for part in parts), strict=True)
    packing.put(VALUES, torch.cat(values), counts, feature=False)
    packing.put_array(INDICES, torch.cat(indices).to(torch.int32).cpu().numpy(), counts)
    packing.put_array(TAIL, torch.cat(tails).cpu().numpy(), counts)


def _largest(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest logits, their classes, and the logarithm of the mass of all others, on the same scale."""
    values, indices = logits.topk(k)
    return values, indices, logits.scatter(-1, indices, -math.inf).logsumexp(-1)


def signals_of(
    stored: Sequence[Row], batch: Batch, rows: Rows, contents: Contents, needs: Needs, head: nn.Linear | None
) -> Signals:
    """A batch's signals out of its stored rows.

    Args:
        stored: As many rows as the batch has.
        batch: The collated batch.
        rows: Its rows.
        contents: What is stored.
        needs: What is wanted.
        head: The vocabulary head, where what it reads is stored in the place of logits.
    """
    device = valid_tokens(batch).device
    signals = Signals()
    if needs.head:
        predictions: VocabularyHead | _StoredLogits = _StoredLogits(stored, contents, device)
        if HEAD_INPUTS in stored[0] and head is not None:
            inputs = np.concatenate([unpacked(row, HEAD_INPUTS) for row in stored])
            predictions = VocabularyHead(
                torch.from_numpy(inputs).to(device, head.weight.dtype), head, str(contents.item)
            )
        if not needs.vocabulary:
            signals.logits = _laid_out(predictions.logits(slice(None)), rows, contents)
        elif isinstance(predictions, VocabularyHead):
            signals.vocabulary = predictions
        else:
            signals.item_logits = predictions
    for number in sorted(needs.hidden_states):
        parts = [unpacked(row, _hidden(number)) for row in stored]
        signals.hidden_states[number] = placed(parts, rows.first, rows.width, device)
    for number in sorted(needs.attentions):
        signals.attentions[number] = attention_of(stored, _attention(number), rows, device)
    return signals


class _StoredLogits:
    """Logits of a batch's rows one after another, laid out in full for some of them at a time."""

    def __init__(self, stored: Sequence[Row], contents: Contents, device: torch.device) -> None:
        self.classes, self.device = contents.shape.num_outputs, device
        names = (LOGITS,) if contents.top_k is None else (VALUES, INDICES, TAIL)
        self.arrays = {name: np.concatenate([row[name] for row in stored]) for name in names if name in stored[0]}

    def logits(self, rows: slice) -> Tensor:
        """``[rows, classes]``; the mass of classes that are not stored is spread over them evenly."""
        parts = {name: torch.from_numpy(array[rows]).to(self.device) for name, array in self.arrays.items()}
        if LOGITS in parts:
            return parts[LOGITS].float()
        others = parts[TAIL] - math.log(self.classes - parts[VALUES].shape[-1])
        dense = others.unsqueeze(-1).expand(-1, self.classes).clone()
        return dense.scatter_(-1, parts[INDICES].long(), parts[VALUES].float())


def _laid_out(logits: Tensor, rows: Rows, contents: Contents) -> Tensor:
    """A batch's logits as its teacher gave them, of those one after another.

    0 at padding; NaN at positions whose predictions do not count, where only those that do are stored.
    """
    if contents.item == "example":
        return logits
    size = len(rows.keys)
    if rows.items is not None:
        whole = logits.new_full((*rows.items.shape, logits.shape[-1]), math.nan)
        whole[torch.from_numpy(rows.items).to(logits.device)] = logits
        return whole
    whole = logits.new_zeros((size, rows.width, logits.shape[-1]))
    end = 0
    for row, (first, count) in enumerate(zip(rows.first, rows.counts, strict=True)):
        whole[row, first : first + count] = logits[end : end + count]
        end += count
    return whole.transpose(1, 2) if contents.item == "span" else whole


def _hidden(number: int) -> str:
    return f"hidden_states.{number}"


def _attention(number: int) -> str:
    return f"attentions.{number}"
