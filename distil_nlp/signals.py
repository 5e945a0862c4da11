"""What one forward pass exposes, and which part of it an objective asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distil_nlp.errors import DataError

Batch = Mapping[str, Any]
LABEL_NAMES = ("labels", "start_positions", "end_positions")
IGNORED = -100  # of a token: nothing is predicted there; of an example or a span: what is right is not known
UNLABELLED = -101  # of a token: something is predicted there, but what is right is not known


@dataclass(frozen=True)
class Needs:
    """What must be captured of a forward pass; ``a | b`` is what both need.

    Blocks are numbered 1..L; hidden state 0 is the embedding output.

    Attributes:
        logits: The head's output.
        loss: The model's own loss on the batch's labels.
        hidden_states: Numbers of the hidden states.
        attentions: Numbers of the blocks whose self-attention is needed.
        vocabulary: The input of the vocabulary head at the items, in the place of logits.
    """

    logits: bool = False
    loss: bool = False
    hidden_states: frozenset[int] = frozenset()
    attentions: frozenset[int] = frozenset()
    vocabulary: bool = False

    def __or__(self, other: Needs) -> Needs:
        return Needs(
            self.logits or other.logits,
            self.loss or other.loss,
            self.hidden_states | other.hidden_states,
            self.attentions | other.attentions,
            self.vocabulary or other.vocabulary,
        )

    @property
    def head(self) -> bool:
        """Whether the forward pass must run to its end."""
        return self.logits or self.loss or self.vocabulary

    @property
    def deepest(self) -> int:
        """The highest block needed, were there no head."""
        return max(self.hidden_states | self.attentions, default=0)


@dataclass(frozen=True)
class SelfAttention:
    """One block's self-attention: what its maps are made of, or the maps themselves.

    Attributes:
        query: ``[batch, heads, tokens, head_width]``, after rotary embedding where the model has one.
        key: ``[batch, key_heads, tokens, head_width]``; ``key_heads`` divides ``heads``.
        mask: Additive or boolean (true = may attend), broadcastable to ``[batch, heads, tokens, tokens]``;
            None where every token may attend to every token (to every earlier one if ``causal``).
        scaling: Factor on the scores before the softmax.
        causal: Whether a missing mask stands for a causal one.
        probabilities: ``[batch, heads, tokens, tokens]`` from a model that only gives finished maps.
        value: ``[batch, key_heads, tokens, head_width]``.
    """

    query: Tensor | None = None
    key: Tensor | None = None
    mask: Tensor | None = None
    scaling: float = 1.0
    causal: bool = False
    probabilities: Tensor | None = None
    value: Tensor | None = None


class ItemLogits(Protocol):
    """Logits at the items that have not been computed, or not been laid out in full."""

    def logits(self, rows: slice) -> Tensor:
        """Those of some of the items, ``[rows, vocab]``."""
        ...


@dataclass(frozen=True)
class VocabularyHead:
    """A vocabulary head and what it is given at the items: logits that have not been computed.

    Attributes:
        inputs: ``[items, width]``.
        linear: From ``width`` to the vocabulary.
        item: ``token`` or ``next_token``.
        dtype: What autocast would have it run in; None without autocast.
    """

    inputs: Tensor
    linear: nn.Linear
    item: str
    dtype: torch.dtype | None = None

    def logits(self, rows: slice) -> Tensor:
        """Runs the head on some of the items: ``[rows, vocab]``."""
        weight, bias = self.weights
        return F.linear(self.inputs[rows].to(weight.dtype), weight, bias)

    @property
    def weights(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias, in what the head runs in."""
        weight, bias = self.linear.weight, self.linear.bias
        dtype = self.dtype or weight.dtype
        return weight.to(dtype), None if bias is None else bias.to(dtype)


@dataclass
class Signals:
    """What one forward pass exposed.

    Attributes:
        logits: ``[batch, labels]``, ``[batch, tokens, vocab]``, or ``[batch, 2, tokens]`` for spans (start, end).
        loss: The model's own loss, the mean over its items in this batch.
        hidden_states: ``[batch, tokens, width]`` by number; 0 is the embedding output, the last is what the
            head reads (as in transformers).
        attentions: Self-attention by block number.
        vocabulary: The head over a vocabulary, not yet run.
        item_logits: In its place, logits at the items of a teacher that is not one model with such a head.
        output: The model's own output, whole.
    """

    logits: Tensor | None = None
    loss: Tensor | None = None
    hidden_states: dict[int, Tensor] = field(default_factory=dict)
    attentions: dict[int, SelfAttention] = field(default_factory=dict)
    vocabulary: VocabularyHead | None = None
    item_logits: ItemLogits | None = None
    output: Any = None


# Kinds of problem, as transformers names them.
MULTI_LABEL: Final = "multi_label_classification"
REGRESSION: Final = "regression"


@dataclass(frozen=True)
class Shape:
    """A model's measures, as far as distillation asks for them.

    Attributes:
        num_layers: Number of blocks, L.
        width: Hidden size.
        num_heads: Attention heads a block; 0 of a model without attention.
        num_outputs: Labels or vocabulary rows of the head; 0 without a head.
        item: What one prediction is: ``example``, ``token``, ``next_token`` or ``span``; None without a head.
        problem: ``regression``, ``multi_label_classification`` or None for one class out of many.
        attention_inputs: Whether queries, keys and values can be captured; finished maps only if not.
        attention_width: Heads times the width of one; None where the configuration does not give one number.
        kept_layers: From which blocks, numbered from 1, of how many its own were made; None where that is not known.
    """

    num_layers: int
    width: int
    num_heads: int
    num_outputs: int = 0
    item: str | None = None
    problem: str | None = None
    attention_inputs: bool = True
    attention_width: int | None = None
    kept_layers: tuple[Sequence[int], int] | None = None


def valid_tokens(batch: Batch) -> Tensor:
    """Which tokens of a batch are not padding.

    Returns:
        ``[batch, tokens]`` boolean; all true where the batch has no attention mask.

    Raises:
        DataError: for a batch of rows that have not been tokenized.
    """
    mask = batch.get("attention_mask")
    if mask is not None:
        present: Tensor = mask.bool()
        return present
    if "input_ids" not in batch and "inputs_embeds" not in batch:
        raise DataError(
            "A model reads tokens.",
            f"The batch has no input_ids, only {', '.join(sorted(batch)) or 'nothing'}.",
            "Tokenize the rows first: rows.map(lambda row: tokenizer(row['text'], truncation=True)), say.",
        )
    reference = batch["input_ids"] if "input_ids" in batch else batch["inputs_embeds"][..., 0]
    return torch.ones(reference.shape, dtype=torch.bool, device=reference.device)


def valid_examples(batch: Batch) -> Tensor:
    """Which rows of a batch are examples, and not padding alone.

    Returns:
        ``[batch]`` boolean.

    Raises:
        DataError: for rows that hold several examples each.
    """
    positions = batch.get("position_ids")
    if positions is not None and batch.get("attention_mask") is None and bool((positions.diff(dim=-1) <= 0).any()):
        raise DataError(
            "An objective compares examples, each of which is a row.",
            "The rows of a batch hold several, one after the other: their position_ids begin anew.",
            "Pad the rows (DataCollatorWithPadding, say), or take objectives on tokens (hidden_states, logits_kl).",
        )
    return valid_tokens(batch).any(-1)


def _predicting(batch: Batch) -> Tensor:
    """Which positions make predictions in a batch without labels: a decoder's, where it reads inputs of its own."""
    decoder = batch.get("decoder_input_ids")
    if decoder is None:
        return valid_tokens(batch)
    return valid_tokens({"input_ids": decoder, "attention_mask": batch.get("decoder_attention_mask")})


def item_labels(batch: Batch, item: str | None) -> Tensor | None:
    """The labels of the predictions that count, as :func:`valid_items` orders them.

    Returns:
        ``[items]``, or ``[items, ...]`` as the batch has them for examples; ``[batch, 2]`` for spans (start, end);
        None for a batch without labels.
    """
    if item == "span":
        start, end = batch.get("start_positions"), batch.get("end_positions")
        return None if start is None or end is None else torch.stack([start, end], dim=1)
    labels: Tensor | None = batch.get("labels")
    if labels is None or item not in ("token", "next_token"):
        return labels
    return (labels[:, 1:] if item == "next_token" else labels)[valid_items(batch, item)]  # position t predicts t + 1


def labelled_items(batch: Batch, item: str | None) -> Tensor:
    """Of which predictions that count the right one is known, as :func:`valid_items` orders them.

    It is not for a class of ``-100`` (of a token ``-101``), a number that is NaN, and a span of which an end is
    ``-100`` or beyond the batch's last token (the other end is not learned either, as it would be in transformers):
    of those only the teacher speaks.

    Returns:
        ``[items]`` boolean; all true for a batch without labels.
    """
    labels = item_labels(batch, item)
    if labels is None:
        valid = valid_items(batch, item)
        return torch.ones(int(valid.sum()), dtype=torch.bool, device=valid.device)
    known = ~labels.isnan() if labels.is_floating_point() else labels > IGNORED
    if item == "span":
        known &= labels < valid_tokens(batch).shape[1]
    return known.flatten(1).all(-1) if known.dim() > 1 else known


def at_items(tensor: Tensor, batch: Batch, item: str | None) -> Tensor:
    """Picks the predictions that count out of what a model gives for every position.

    Args:
        tensor: ``[batch, ...]`` for examples, ``[batch, tokens, ...]`` for tokens and next tokens.
        batch: The collated batch.
        item: As in :class:`Shape`.

    Returns:
        ``[items, ...]``.
    """
    if item not in ("token", "next_token"):
        return tensor
    return (tensor[:, :-1] if item == "next_token" else tensor)[valid_items(batch, item)]


def valid_items(batch: Batch, item: str | None) -> Tensor:
    """Which predictions of a batch count.

    Args:
        batch: The collated batch.
        item: As in :class:`Shape`.

    Returns:
        Boolean, ``[batch]`` for examples and spans, ``[batch, tokens]`` for tokens (of a decoder, the target's),
        and ``[batch, tokens - 1]`` for next tokens (position t predicts token t + 1). ``-100`` never counts; without
        labels every token that is not padding does, and ``-101`` is a token whose label is not known.
    """
    if item in ("example", "span", None):
        tokens = valid_tokens(batch)
        return torch.ones(tokens.shape[:1], dtype=torch.bool, device=tokens.device)
    labels = batch.get("labels")
    valid = _predicting(batch) if labels is None else labels != -100
    if item != "next_token":
        return valid
    return valid[:, 1:] & valid[:, :-1] if labels is None else valid[:, 1:]  # padding predicts nothing by itself
