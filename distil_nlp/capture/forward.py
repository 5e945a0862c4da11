"""One forward pass, and of what happens inside only what is needed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from distil_nlp.blocks import Blocks, find_blocks, inner_model, is_seq2seq, prediction_item
from distil_nlp.capture.attention import ATTENTION_NAME
from distil_nlp.capture.recorder import Enough, Recorder, current
from distil_nlp.errors import ModelError
from distil_nlp.signals import (
    IGNORED,
    LABEL_NAMES,
    Batch,
    Needs,
    SelfAttention,
    Signals,
    VocabularyHead,
    valid_items,
    valid_tokens,
)


def capture(model: nn.Module, batch: Batch, needs: Needs) -> Signals:
    """Runs a model once on a batch.

    The last hidden state is what the head reads, after a final norm where the model has one, as in transformers.
    If neither logits nor loss are needed the pass ends at the highest block that is.

    Args:
        model: The model, or its data-parallel wrapping.
        batch: The collated batch; keys that the model does not know are left out, and so are labels unless the
            loss is needed.
        needs: What to keep.

    Raises:
        ModelError: if attention is needed of a model that :func:`prepare_attention` has not seen or of a block that
            has none, or something inside a model whose gradient checkpoints are reentrant.
    """
    core = inner_model(model)
    known = inspect.signature(core.forward).parameters
    label_names = () if needs.loss else LABEL_NAMES
    inputs = {name: value for name, value in batch.items() if name in known and name not in label_names}
    inputs |= _decoder_inputs(core, batch)
    if "use_cache" in known:  # nobody reads it, and with a cache transformers does not see that rows are packed
        inputs.setdefault("use_cache", False)
    if "return_dict" in known:  # a configuration may say otherwise
        inputs["return_dict"] = True
    if needs.loss and "labels" in inputs and not inputs["labels"].is_floating_point():
        inputs["labels"] = inputs["labels"].clamp(min=IGNORED)  # the model's own loss knows no other
    tokens = valid_tokens(batch).shape
    signals = Signals()
    if not (needs.hidden_states or needs.attentions or needs.vocabulary):
        return _read_output(signals, model(**inputs)) if needs.head else signals

    eager = bool(needs.attentions) and core.config._attn_implementation == "eager"
    if needs.attentions and not eager and core.config._attn_implementation != ATTENTION_NAME:
        raise ModelError(
            "Attention is needed of a model that has not been made observable.",
            f"attn_implementation is '{core.config._attn_implementation}'.",
            "Call distil_nlp.capture.prepare_attention(model, 'student') first.",
        )
    if eager:  # maps come with the finished output
        needs |= Needs(logits=True)
        inputs["output_attentions"] = True
    blocks = find_blocks(core)
    recorder = Recorder(needs, blocks.num_layers, _head_positions(core, batch) if needs.vocabulary else None)
    with _listening(core, blocks, recorder):
        try:
            output = model(**inputs)
        except Enough:
            output = None
    signals.hidden_states, signals.attentions = recorder.hidden_states, recorder.attentions
    if eager:
        maps = output.get("attentions") or ()
        output = type(output)(**{name: value for name, value in output.items() if name != "attentions"})
        if len(maps) == blocks.num_layers:
            signals.attentions = {block: SelfAttention(probabilities=maps[block - 1]) for block in needs.attentions}
    _check_complete(core, needs, signals)
    _check_shapes(core, signals, tokens)
    if recorder.head_input is not None:
        head = core.get_output_embeddings()
        signals.vocabulary = VocabularyHead(recorder.head_input, head, str(prediction_item(core)), recorder.head_dtype)
        return signals
    return _read_output(signals, output)


def _check_complete(model: PreTrainedModel, needs: Needs, signals: Signals) -> None:
    missing = {
        "self-attention": needs.attentions - signals.attentions.keys(),
        "hidden state": needs.hidden_states - signals.hidden_states.keys(),
    }
    for what, blocks in missing.items():
        if blocks:
            raise ModelError(
                f"An objective reads the {what} of block {', '.join(map(str, sorted(blocks)))} of "
                f"{type(model).__name__}.",
                "There is none: the block is of another kind (a convolution, linear attention), or did not run.",
                "Name others in the objective's `mapping` ({student block: teacher block}), or leave it out.",
            )


def _check_shapes(model: PreTrainedModel, signals: Signals, tokens: torch.Size) -> None:
    """Leaves out what a model has padded rows with inside (Longformer); refuses what is not of each token."""
    found: dict[str, tuple[Sequence[int], Sequence[int]]] = {}
    for block, states in signals.hidden_states.items():
        if states.shape[1] > tokens[1]:  # or else the very tensor: gradients are taken at it
            signals.hidden_states[block] = states = states[:, : tokens[1]]
        found[f"hidden state of block {block}"] = states.shape[:2], tokens
    for block, attention in signals.attentions.items():
        if (maps := attention.probabilities) is not None:
            found[f"attention map of block {block}"] = (maps.shape[0], *maps.shape[2:]), (*tokens, tokens[1])
    for what, (given, expected) in found.items():
        if tuple(given) != tuple(expected):
            raise ModelError(
                f"Objectives read what {type(model).__name__} makes of each token.",
                f"The {what} is {tuple(given)}, width and heads left out; the batch's is {tuple(expected)}.",
                "Leave out objectives on hidden states and attention; those on logits need neither.",
            )


def _decoder_inputs(model: PreTrainedModel, batch: Batch) -> dict[str, Tensor]:
    """What an encoder-decoder's decoder reads: the labels, one place later, after the token that it starts with.

    Without it some models (BART) would take the encoder's input in its place, without a word.
    """
    given = batch.get("labels") is None or "decoder_input_ids" in batch or "decoder_inputs_embeds" in batch
    if given or not is_seq2seq(model):
        return {}
    prepare = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    return {"labels": batch["labels"]} if prepare is None else {"decoder_input_ids": prepare(labels=batch["labels"])}


@contextmanager
def _listening(model: PreTrainedModel, blocks: Blocks, recorder: Recorder) -> Iterator[None]:
    """Hooks for the length of one forward pass, so that a recomputation in the backward pass is not heard."""
    with ExitStack() as stack:
        for module in blocks.modules:
            stack.callback(module.register_forward_pre_hook(recorder.block_starts, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(recorder.block_ends).remove)
        stack.callback(backbone_of(model, blocks).register_forward_hook(recorder.backbone_ends).remove)
        if recorder.items is not None:
            stack.callback(model.get_output_embeddings().register_forward_pre_hook(recorder.head_starts).remove)
        token = current.set(recorder)
        stack.callback(current.reset, token)
        yield


def backbone_of(model: PreTrainedModel, blocks: Blocks) -> nn.Module:
    """The innermost transformers model around the blocks: heads of OPT call it past ``base_model``."""
    path = blocks.path.rpartition(".")[0]
    while not isinstance(found := model.get_submodule(path), PreTrainedModel):
        path = path.rpartition(".")[0]
    return found


def _head_positions(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Positions whose hidden states make the items' predictions, ``[batch, tokens]`` boolean."""
    item = prediction_item(model)
    items = valid_items(batch, item)
    return F.pad(items, (0, 1)) if item == "next_token" else items  # the last position predicts nothing


def _read_output(signals: Signals, output: Any) -> Signals:
    if output is None:
        return signals
    signals.output = output
    signals.loss = output.get("loss")
    if "start_logits" in output:
        signals.logits = torch.stack([output["start_logits"], output["end_logits"]], dim=1)  # [batch, 2, tokens]
    else:
        signals.logits = output.get("logits")
    return signals
