"""Adapters of PEFT: changes of another model, which are added to its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import PreTrainedModel

from distil_nlp.errors import MissingExtraError, ModelError, UnresolvedReferenceError
from distil_nlp.recipe.sections import ModelReference
from distil_nlp.recipe.teachers import TeacherModelSection
from distil_nlp.references import ADAPTER, ADAPTER_WEIGHTS, HubReference, find_file, read_json
from distil_nlp.students import merge_adapters

PREFIX = "base_model.model."  # of all names in an adapter's file


def base_of(reference: Any, source: Path | HubReference) -> ModelReference:
    """What an adapter's changes are to be added to: as the recipe says (``base``), or else the adapter.

    Args:
        reference: The section of the recipe that names the adapter.
        source: Where it is.

    Raises:
        ModelError: It is not the teacher's; it is no LoRA; nothing says what it is an adapter of.
    """
    said = read_json(source, ADAPTER)
    asked = f"'{reference.model}' is an adapter of PEFT ({ADAPTER})."
    if not isinstance(reference, TeacherModelSection):
        fix = "Merge it into its base model and name what save_pretrained() makes of that; or name the base model."
        raise ModelError(asked, "Only a teacher can be one.", fix)
    kind = said.get("peft_type") if isinstance(said, dict) else None
    if kind != "LORA" or said.get("megatron_config"):  # which would import a module that the adapter names
        found = f"Its type is {kind!r}{' with megatron_config' if kind == 'LORA' else ''}."
        raise ModelError(asked, found, "Only 'LORA' is supported. Merge another one with PEFT, and name the result.")
    if reference.base is not None:
        return reference.base
    name = said.get("base_model_name_or_path")
    if not name:
        raise ModelError(asked, "It does not say of which model.", "Give teacher.base.")
    return ModelReference.model_construct(model=str(name), sha256=None, revision=said.get("revision"))


def adapter_labels(source: Path | HubReference) -> dict[str, Any]:
    """What a ``config.json`` beside an adapter, if there is one, says of labels, as ``from_pretrained`` takes it."""
    config = read_json(source, "config.json") or {}
    said = {key: config[key] for key in ("label2id", "problem_type") if config.get(key) is not None}
    if config.get("id2label"):
        said["id2label"] = {int(index): name for index, name in config["id2label"].items()}
        said["num_labels"] = len(said["id2label"])
    return said


def with_adapter(base: PreTrainedModel, source: Path | HubReference) -> tuple[PreTrainedModel, set[str]]:
    """Adds an adapter's changes to a model.

    Args:
        base: What it is an adapter of; it is changed.
        source: Where the adapter is.

    Returns:
        An ordinary model, and the names of the weights that the adapter has replaced whole: those of a head.

    Raises:
        MissingExtraError: PEFT is not installed.
        ModelError: The adapter is not one of this model.
        UnresolvedReferenceError: Its weights are pickled, or missing.
    """
    try:
        from peft import PeftConfig, PeftModel, get_peft_model_state_dict
    except ImportError as error:
        raise MissingExtraError("peft", "peft") from error
    config, weights = find_file(source, ADAPTER), find_file(source, ADAPTER_WEIGHTS)
    if config is None or weights is None:
        raise UnresolvedReferenceError(
            f"Cannot use the adapter '{source}'.",
            f"It has no {ADAPTER_WEIGHTS}; weights that are pickled (adapter_model.bin) are never loaded.",
            "Save it again with save_pretrained(), which writes safetensors.",
        )
    names = set(base.state_dict())
    try:
        folder = str(config.parent)
        model: Any = PeftModel.from_pretrained(base, folder, config=PeftConfig.from_pretrained(folder))
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _not_of(base, source, str(error).strip().replace("\n\t", " ").partition("\n")[0]) from error
    with safe_open(weights, framework="pt") as file:
        saved = set(file.keys())
    expected = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    whole = {name.removeprefix(PREFIX) for name in saved} & names
    homeless = sorted(name for name in saved - expected if name.removeprefix(PREFIX) not in names)
    if missing := sorted(expected - saved) or homeless:
        where = "the model has no place for it" if missing is homeless else "the adapter lacks it"
        raise _not_of(base, source, f"{missing[0]}: {where} ({len(missing)} such weights).")
    return merge_adapters(model), whole


def _not_of(base: PreTrainedModel, source: Path | HubReference, found: str) -> ModelError:
    return ModelError(
        f"The adapter '{source}' was to be added to a {type(base).__name__}.",
        found,
        "Name as `base` the model that it was trained on. The labels of an adapter with a head are those in a "
        "config.json beside it, or else those of its base.",
    )
