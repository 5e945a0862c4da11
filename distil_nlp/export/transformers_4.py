"""Configs of transformers 5, in the words of transformers 4."""

from __future__ import annotations

from typing import Any

# Models that name their rotary settings in their own way: the base and the rotated share of one table ...
_OWN_NAMES = {
    "gpt_neox": ("rotary_emb_base", "rotary_pct"),
    "gpt_neox_japanese": ("rotary_emb_base", "rotary_pct"),
}
# ... and the bases of two tables, for full and for sliding attention.
_TWO_BASES = {
    "modernbert": ("global_rope_theta", "local_rope_theta"),
    "gemma3_text": ("rope_theta", "rope_local_base_freq"),
}


def to_transformers_4(config: dict[str, Any]) -> dict[str, Any]:
    """Translates a ``config.json`` of transformers 5 so that transformers 4 reads the same settings.

    Of rotary embeddings version 5 writes ``rope_parameters``; version 4 reads ``rope_theta`` and ``rope_scaling``, and
    takes its default base, without a word, if they are absent. Of T5 and its kin version 5 writes whether the head's
    input is scaled (mT5's never is); version 4 scales it if the head is tied to the embedding.
    """
    translated, model_type = dict(config), config.get("model_type", "")
    if model_type == "mt5" or "scale_decoder_outputs" in config:
        translated["tie_word_embeddings"] = config.get("scale_decoder_outputs", False)
    rope = translated.pop("rope_parameters", None)
    if not rope:
        return translated
    if model_type in _TWO_BASES:
        full, sliding = _TWO_BASES[model_type]
        translated[sliding] = rope["sliding_attention"]["rope_theta"]
        return translated | _one_table(rope["full_attention"], full, "partial_rotary_factor")
    return translated | _one_table(rope, *_OWN_NAMES.get(model_type, ("rope_theta", "partial_rotary_factor")))


def _one_table(rope: dict[str, Any], base_name: str, share_name: str) -> dict[str, Any]:
    scaling = dict(rope)
    names = {"rope_theta": base_name, "partial_rotary_factor": share_name}
    settings = {names[key]: scaling.pop(key) for key in names if scaling.get(key) is not None}
    if scaling.get("rope_type", "default") != "default":
        settings["rope_scaling"] = scaling
    return settings
