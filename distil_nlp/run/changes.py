"""Which stages of a run a recipe decides, and what two recipes differ in."""

from __future__ import annotations

from typing import Any

from distil_nlp.recipe import Recipe

STAGES = ("teach", "distill", "control", "evaluate", "export", "bench", "report")
# The first stage whose result a section of the recipe decides, or a key of it.
FIRST_STAGE = {
    **dict.fromkeys(("task", "teacher", "seed"), "teach"),
    **dict.fromkeys(("teacher.store", "teacher.quantization"), "distill"),
    **dict.fromkeys((f"teacher.ensemble.{key}" for key in ("weights", "by_confidence", "average")), "distill"),
    **dict.fromkeys(("student", "stages", "objectives", "weighting", "training"), "distill"),
    **dict.fromkeys(("task.unlabelled", "task.augment"), "distill"),
    "control": "control",
    **dict.fromkeys(("evaluation", "task.metrics"), "evaluate"),
    "export": "export",
    "bench": "bench",
    "name": "report",
}


def made_by(recipe: Recipe) -> dict[str, str]:
    """The stage that makes each model of a run, by the model's name in its folder; the exports are one, too."""
    return {
        **dict.fromkeys(recipe.teachers, "teach"),
        **dict.fromkeys((stage.model for stage in recipe.distillation), "distill"),
        **dict.fromkeys(("control_pretrained", "control_same_start"), "control"),
        "onnx": "export",
    }


def first_stage(key: str) -> str:
    """The first stage whose result a key of the recipe decides."""
    while key not in FIRST_STAGE:
        key = key.rpartition(".")[0]
    return FIRST_STAGE[key]


def differences(earlier: Recipe, recipe: Recipe) -> list[str]:
    """Keys by which two recipes differ."""

    def flat(value: Any, prefix: str = "") -> dict[str, Any]:
        if not isinstance(value, dict) or not value:
            return {prefix: value}
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{prefix}.{key}".strip(".")).items()}

    old, new = flat(earlier.model_dump(mode="json")), flat(recipe.model_dump(mode="json"))
    missing = object()
    changed = {key for key in old.keys() | new.keys() if old.get(key, missing) != new.get(key, missing)}
    if list(earlier.stages) != list(recipe.stages):  # their order, too
        changed.add("stages")
    return sorted(changed)
