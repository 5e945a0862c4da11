"""One forward pass, and of what happens inside only what is needed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.utils import logging

from distil_nlp.blocks import Blocks, find_blocks, inner_model, is_seq2seq, prediction_item
from distil_nlp.errors import ModelError
from distil_nlp.signals import (
    IGNORED,
    LABEL_NAMES,
    Batch,
    Needs,
    SelfAttention,
    Signals,
    VocabularyHead,
    at_items,
    item_labels,
    valid_items,
    valid_tokens,
)

logger = logging.get_logger(__name__)

ATTENTION_NAME = "distil_sdpa"


class _Enough(Exception):  # noqa: N818 - control flow, not an error
    """Raised inside a forward pass when everything needed has been seen."""


class _Recorder:
    """Keeps what the hooks of one forward pass see; blocks are told apart by the order in which they run."""

    def __init__(self, needs: Needs, num_layers: int, items: Tensor | None = None) -> None:
        self.needs, self.num_layers, self.items = needs, num_layers, items
        self.block, self.differentiated = 0, torch.is_grad_enabled()
        self.hidden_states: dict[int, Tensor] = {}
        self.attentions: dict[int, SelfAttention] = {}
        self.head_input: Tensor | None = None

    def block_starts(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.block += 1
        if self.block == 1 and 0 in self.needs.hidden_states:
            self.hidden_states[0] = self._with_gradient(args[0] if args else kwargs["hidden_states"])
            self._stop_when_done(0)

    def block_ends(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self.block < self.num_layers and self.block in self.needs.hidden_states:
            self.hidden_states[self.block] = self._with_gradient(output if isinstance(output, Tensor) else output[0])
        if self.block < self.num_layers:
            self._stop_when_done(self.block)

    def backbone_ends(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Hands the items alone on to the vocabulary head, as one row."""
        states: Tensor = output[0]
        if self.num_layers in self.needs.hidden_states:
            self.hidden_states[self.num_layers] = states
        self._stop_when_done(self.num_layers)
        if self.items is None:
            return output
        states = states[self.items].unsqueeze(0)  # [1, items, width]
        if isinstance(output, tuple):
            return (states, *output[1:])
        return type(output)(**{**output, "last_hidden_state": states})

    def attention_seen(self, attention: SelfAttention) -> None:
        if self.block in self.needs.attentions:
            self.attentions.setdefault(self.block, self._with_gradient(attention))
            if self.block not in self.needs.hidden_states:
                self._stop_when_done(self.block)

    def head_starts(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Leaves the vocabulary head one position, lest it compute what nobody reads."""
        self.head_input = args[0][0]
        place = args[0].device.type
        self.head_dtype = torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else None
        return (args[0][:, :1],)

    def _with_gradient(self, seen: Any) -> Any:
        if self.differentiated and not torch.is_grad_enabled():
            raise ModelError(
                "Objectives look inside the model, and need the gradient of what they see there.",
                "Its blocks run without one, as reentrant gradient checkpoints do.",
                "Enable checkpointing with gradient_checkpointing_kwargs={'use_reentrant': False}.",
            )
        return seen

    def _stop_when_done(self, block: int) -> None:
        if not self.needs.head and block >= self.needs.deepest:
            raise _Enough


_recorder: ContextVar[_Recorder | None] = ContextVar("recorder", default=None)


def _recording_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """The model's own SDPA; a recorder, where one is listening, is shown what goes in."""
    recorder = _recorder.get()
    if recorder is not None:
        causal = is_causal if is_causal is not None else getattr(module, "is_causal", False)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        seen = SelfAttention(query, key, attention_mask, scale, bool(causal), value=value)
        recorder.attention_seen(seen)
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, is_causal=is_causal, **kwargs
    )


AttentionInterface.register(ATTENTION_NAME, _recording_attention)
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)


def prepare_attention(model: PreTrainedModel, role: str) -> None:
    """Makes a model's self-attention observable; called once, and only where an objective needs it.

    A model whose attention goes through ``transformers.AttentionInterface`` keeps SDPA. One that does not
    (DeBERTa-v2) is switched to eager attention, which is slower and, in training, gives maps after dropout.

    Args:
        model: The student or the teacher.
        role: ``"student"`` or ``"teacher"``, for messages.

    Raises:
        ModelError: if the model was loaded with an attention that has no maps to look at (flash, flex).
    """
    current = model.config._attn_implementation
    if current not in (None, "sdpa", "eager", ATTENTION_NAME):
        raise ModelError(
            f"An objective matches attention maps, so the {role}'s attention must be observable.",
            f"The {role} was loaded with attn_implementation='{current}', which never builds them.",
            f"Load the {role} with from_pretrained(..., attn_implementation='sdpa'), or leave the objective out.",
        )
    if model._can_set_attn_implementation():
        model.set_attn_implementation(ATTENTION_NAME)
        return
    logger.warning(
        f"{type(model).__name__} ({role}) does not use transformers.AttentionInterface: its attention runs eagerly, "
        "which is slower, and in training its maps are taken after dropout."
    )
    model.config._attn_implementation = "eager"


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
        ModelError: if attention is needed of a model that :func:`prepare_attention` has not seen, or something inside
            a model whose gradient checkpoints are reentrant.
    """
    core = inner_model(model)
    known = inspect.signature(core.forward).parameters
    label_names = () if needs.loss else LABEL_NAMES
    inputs = {name: value for name, value in batch.items() if name in known and name not in label_names}
    inputs |= _decoder_inputs(core, batch)
    if needs.loss and "labels" in inputs and not inputs["labels"].is_floating_point():
        inputs["labels"] = inputs["labels"].clamp(min=IGNORED)  # the model's own loss knows no other
    signals = Signals(attention_mask=valid_tokens(batch))
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
    recorder = _Recorder(needs, blocks.num_layers, _head_positions(core, batch) if needs.vocabulary else None)
    with _listening(core, blocks, recorder):
        try:
            output = model(**inputs)
        except _Enough:
            output = None
    signals.hidden_states, signals.attentions = recorder.hidden_states, recorder.attentions
    if eager:
        maps = output["attentions"]
        output = type(output)(**{name: value for name, value in output.items() if name != "attentions"})
        signals.attentions = {block: SelfAttention(probabilities=maps[block - 1]) for block in needs.attentions}
    if recorder.head_input is not None:
        head = core.get_output_embeddings()
        signals.vocabulary = VocabularyHead(recorder.head_input, head, str(prediction_item(core)), recorder.head_dtype)
        return signals
    return _read_output(signals, output)


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
def _listening(model: PreTrainedModel, blocks: Blocks, recorder: _Recorder) -> Iterator[None]:
    """Hooks for the length of one forward pass, so that a recomputation in the backward pass is not heard."""
    with ExitStack() as stack:
        for module in blocks.modules:
            stack.callback(module.register_forward_pre_hook(recorder.block_starts, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(recorder.block_ends).remove)
        stack.callback(_backbone(model, blocks).register_forward_hook(recorder.backbone_ends).remove)
        if recorder.items is not None:
            stack.callback(model.get_output_embeddings().register_forward_pre_hook(recorder.head_starts).remove)
        token = _recorder.set(recorder)
        stack.callback(_recorder.reset, token)
        yield


def _backbone(model: PreTrainedModel, blocks: Blocks) -> nn.Module:
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


def has_plain_vocabulary_head(model: PreTrainedModel) -> bool:
    """Whether a model ends in one linear layer over its vocabulary, and its loss is cross-entropy at the items.

    Only then can losses be made from that layer's input. It is tried on three tokens: what the model gives for them
    must be what the layer gives for its input.
    """
    head = model.get_output_embeddings()
    if prediction_item(model) not in ("token", "next_token") or type(head) is not nn.Linear:
        return False
    ids = torch.arange(3, device=head.weight.device).unsqueeze(0) % head.out_features
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    training = model.training
    try:
        with torch.no_grad():
            output = model.eval()(**batch)
            seen = capture(model, batch, Needs(vocabulary=True)).vocabulary
    except (RuntimeError, TypeError, ValueError, ModelError):
        return False
    finally:
        model.train(training)
    if seen is None or output.loss is None:
        return False
    logits, item = head(seen.inputs), prediction_item(model)
    loss = F.cross_entropy(logits.float(), cast(Tensor, item_labels(batch, item)))
    same = torch.allclose(logits, at_items(output.logits, batch, item), rtol=1e-2, atol=1e-3)
    return same and torch.allclose(loss, output.loss.float(), rtol=1e-2, atol=1e-3)


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
