"""New models that take over another model's weights."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from distil_nlp.errors import ModelError
from distil_nlp.students.sizes import EMBEDDING


def skeleton(model: PreTrainedModel, config: PretrainedConfig) -> PreTrainedModel:
    """A model of the same class without weights, which takes no memory: for the shapes that a configuration gives.

    Raises:
        ModelError: if the class refuses the configuration.
    """
    try:
        type(config).from_dict(config.to_dict())  # what loading will do
        with torch.device("meta"):
            made: Any = type(model)(config)
    except (ValueError, StrictDataclassError) as error:
        raise ModelError(
            f"A {type(model).__name__} of other sizes was asked for.",
            f"Its configuration does not allow them: {str(error).splitlines()[-1].strip()}",
            "Ask for other sizes.",
        ) from None
    built: PreTrainedModel = made
    return built


def changed_axes(model: PreTrainedModel, config: PretrainedConfig) -> dict[tuple[str, int], int]:
    """The axes of a model's weights that are of another length under another configuration.

    Returns:
        For each weight and axis its present length.

    Raises:
        ModelError: if the model has other weights under that configuration.
    """
    state, expected = model.state_dict(), skeleton(model, config).state_dict()
    if set(state) != set(expected):
        raise ModelError(
            f"A {type(model).__name__} of other sizes was asked for.",
            f"With these it has other weights: {sorted(set(state) ^ set(expected))}.",
            _other_than(model.config.get_text_config(), config.get_text_config()),
        )
    return {
        (name, axis): length
        for name, value in state.items()
        for axis, length in enumerate(value.shape)
        if length != expected[name].shape[axis]
    }


def _other_than(before: PretrainedConfig, after: PretrainedConfig) -> str:
    """What to ask for: a hidden size that meets that of the embeddings leaves no projection between them."""
    hidden = getattr(after, "hidden_size", None)
    met = [name for name in EMBEDDING if getattr(after, name, None) == hidden != getattr(before, "hidden_size", None)]
    return f"Ask for a hidden_size other than {hidden}, its {met[0]}." if met else "Ask for other sizes."


def inherit(model: PreTrainedModel, config: PretrainedConfig, state: dict[str, Tensor]) -> PreTrainedModel:
    """A model of the same class under another configuration, with the weights given, in float32.

    Raises:
        ModelError: if the weights are not those that the configuration asks for.
    """
    expected = {name: value.shape for name, value in skeleton(model, config).state_dict().items()}
    missing = set(expected) - set(state) - set(getattr(model, "all_tied_weights_keys", None) or ())
    wrong = {name for name in set(expected) & set(state) if state[name].shape != expected[name]}
    if missing or wrong or set(state) - set(expected):
        raise ModelError(
            f"A student of {type(model).__name__} takes over the teacher's weights.",
            f"Not found in the teacher: {sorted(missing)}; without a place: {sorted(set(state) - set(expected))}; "
            f"of another shape: {sorted(wrong)}.",
            "Ask for other layers or sizes, or build the student from a checkpoint of its own.",
        )
    with torch.random.fork_rng(devices=[]):  # building must not move the caller's random state
        made: Any = type(model)(config)
    made.load_state_dict(state, strict=False)
    if model.can_generate():
        made.generation_config = copy.deepcopy(model.generation_config)
    built: PreTrainedModel = made.to(torch.float32).train(model.training)
    return built


def placed_like(made: PreTrainedModel, model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same class on another one's device, each of its weights and buffers in the dtype of that one's.

    These are not all of one dtype: in a model that runs in 16 bits the frequencies of rotary embeddings stay in
    float32, and so do some weights of T5.
    """
    made.to(model.device)  # type: ignore[arg-type]
    dtypes = {name: tensor.dtype for name, tensor in chain(model.named_parameters(), model.named_buffers())}
    for name, tensor in chain(made.named_parameters(), made.named_buffers()):
        tensor.data = tensor.data.to(dtypes[name])
    return made
