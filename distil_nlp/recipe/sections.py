"""The sections of a recipe: what each may hold, and what goes together."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from distil_nlp.errors import UnresolvedReferenceError
from distil_nlp.recipe.errors import FaultError
from distil_nlp.wheels import SCHEME, WheelMember

WIDTHS = ("hidden_size", "num_heads", "intermediate_size")
PARTS = ("decoder_layers", *WIDTHS)  # of the teacher, beside some of its layers or in their place
WEIGHTINGS: dict[str, dict[str, Any]] = {  # parameters and their defaults
    "uncertainty": {"learning_rate": 0.01},
    "grad_norm": {"alpha": 1.5, "every": 10, "rate": 0.2},
}


def _threads(value: Any) -> Any:
    if value == "all" or (type(value) is int and value >= 1):
        return value
    raise FaultError(f"It is {value!r}.", "Give a number of threads from 1 up, or 'all'.")


def mapping(value: Any) -> Any:
    """A section that is left empty has no keys."""
    return {} if value is None else value


def unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuses a list that repeats a value."""
    if len(set(values)) < len(values):
        raise FaultError(f"It is {list(values)}, which repeats a value.", "Give each value once.")
    return values


def _hash(sha256: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise FaultError(f"It is {sha256!r}.", "A sha256 has 64 hexadecimal digits (pip hash FILE.whl prints it).")
    return sha256.lower()


def folder_name(name: str) -> str:
    """Refuses what cannot name a run's folder."""
    if not re.fullmatch(r"[^/\\.\s\x00-\x1f][^/\\\x00-\x1f]*", name):
        raise FaultError(f"It is {name!r}.", "The run's folder is named so: use a name without slashes.")
    return name


def check_hash(key: str, reference: str | None, sha256: str | None) -> None:
    """Refuses a ``wheel://`` reference without its sha256, and a sha256 for anything else."""
    if reference is not None and reference.startswith(SCHEME):
        try:
            WheelMember.parse(reference, sha256)
        except UnresolvedReferenceError as error:
            raise FaultError(error.found, error.fix, key=key) from None
    elif sha256 is not None:
        raise FaultError(
            f"A sha256 is checked for {SCHEME} references only, and '{key}' is {reference!r}.",
            "Remove the sha256, or pin a Hub model with 'revision'.",
            key="sha256",
        )


Count = Annotated[int, Field(strict=True, ge=1)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(unique)]
Fraction = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]
Sha256 = Annotated[str, AfterValidator(_hash)]
Arguments = Annotated[dict[str, Any], BeforeValidator(mapping)]
Word = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A section of a recipe: fixed once read, with no keys but its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelReference(Section):
    """A Hub id, a local folder or a ``wheel://`` reference, and which version of it."""

    model: Word
    sha256: Sha256 | None = None
    revision: Word | None = None

    @model_validator(mode="after")
    def _check_reference(self) -> ModelReference:
        check_hash("model", self.model, self.sha256)
        return self


class LoraSection(Section):
    """Low-rank adapters that are trained instead of all weights, and merged when the student is saved."""

    rank: Count = 8
    alpha: Positive = 16.0
    dropout: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0
    target_modules: Annotated[tuple[Word, ...], Field(min_length=1), AfterValidator(unique)] | None = None


class VocabularySection(Section):
    """Of which tokens a student's vocabulary is made: those of its training texts, by how often they occur there."""

    min_count: Count = 1
    max_size: Count | None = None
    keep: Annotated[tuple[Word, ...], AfterValidator(unique)] = ()


def _of_the_task(value: Any) -> Any:
    if isinstance(value, str) and value != "task":
        raise FaultError(f"It is {value!r}.", "Write task, or the keys of the section, as {min_count: 2}.")
    return {} if value == "task" else value


def _is_rule(value: Any) -> str:
    return "(rule)" if isinstance(value, str) else "(list)"


def _is_number(value: Any) -> str:
    return "(number)" if isinstance(value, int) else "(list)"


Rule = Literal["uniform", "first", "last", "skip", "cka", "influence"]
Layers = Annotated[Annotated[Rule, Tag("(rule)")] | Annotated[Counts, Tag("(list)")], Discriminator(_is_rule)]
Depth = Annotated[Annotated[Count, Tag("(number)")] | Annotated[Counts, Tag("(list)")], Discriminator(_is_number)]


class StudentSection(Section):
    """The student: some of the teacher's layers, by number or by rule, parts of these, and tokens; or a checkpoint."""

    num_layers: Count | None = None
    layers: Layers | None = None
    decoder_layers: Depth | None = None
    hidden_size: Count | None = None
    num_heads: Count | None = None
    intermediate_size: Count | None = None
    model: Word | None = None
    sha256: Sha256 | None = None
    revision: Word | None = None
    vocabulary: Annotated[VocabularySection | None, BeforeValidator(_of_the_task)] = None
    start: Literal["teacher", "pretrained"] = "teacher"
    lora: LoraSection | None = None

    @model_validator(mode="after")
    def _check(self) -> StudentSection:
        by_rule = isinstance(self.layers, str)
        if by_rule and self.num_layers is None and self.model is None:
            raise FaultError(f"{self.layers} says which, and not how many.", "Give num_layers beside it.", key="layers")
        depth = [key for key in ("num_layers", "layers", "model") if getattr(self, key) is not None]
        given = [key for key in depth if key != "layers" or not by_rule]
        others = [key for key in PARTS if getattr(self, key) is not None]
        if len(given) > 1 or not (given or others) or (self.model and (others or by_rule)):
            given = depth + others
            found = f"It has {' and '.join(given) or 'none of them'}."
            parts = ", ".join(PARTS)
            fix = f"Give exactly one of num_layers, layers and model; beside or in place of the former, {parts}."
            raise FaultError(found, fix, key=given[-1] if given else "")
        if self.model is not None and self.start != "teacher":
            found = f"{self.model} has weights of its own."
            raise FaultError(found, "Leave it out, or give num_layers or layers in place of model.", key="start")
        check_hash("model", self.model, self.sha256)
        return self


class WeightingSection(Section):
    """What adapts the weights of the terms; each method has parameters of its own."""

    method: Literal["uncertainty", "grad_norm"]
    learning_rate: Positive | None = None
    alpha: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] | None = None
    every: Count | None = None
    rate: Annotated[float, Field(strict=True, gt=0, le=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        own = WEIGHTINGS.get(str(values.get("method")), {}) if isinstance(values, dict) else {}
        return (
            {**values, **{key: default for key, default in own.items() if values.get(key) is None}} if own else values
        )

    @model_validator(mode="after")
    def _check(self) -> WeightingSection:
        for key in self.model_fields_set - {"method"} - set(WEIGHTINGS[self.method]):
            if getattr(self, key) is not None:
                fix = f"'{self.method}' has {', '.join(WEIGHTINGS[self.method])}."
                raise FaultError(f"The method '{self.method}' has no such parameter.", fix, key=key)
        return self

    @property
    def parameters(self) -> dict[str, Any]:
        """The method's parameters by name."""
        return {key: getattr(self, key) for key in WEIGHTINGS[self.method]}


class EvaluationSection(Section):
    """How the artefacts are scored."""

    batch_size: Count = 64
    bootstrap_samples: Count = 10_000


class ExportSection(Section):
    """What is exported, by which exporter and for which processor; a larger loss of quality is an error.

    ``cache`` is whether a decoder's graph keeps keys and values; None for one that the backend can make.
    """

    format: Literal["onnx"] = "onnx"
    backend: Literal["optimum", "native"] = "optimum"
    quantization: Literal["dynamic"] | None = "dynamic"
    target: Literal["avx2", "avx512_vnni", "arm64"] = "avx512_vnni"
    max_metric_drop: Fraction = 0.01
    cache: Annotated[bool, Field(strict=True)] | None = None

    @model_validator(mode="after")
    def _check_cache(self) -> ExportSection:
        if self.cache and self.backend == "native":
            fix = "Use backend: optimum, or cache: false."
            raise FaultError("The backend 'native' makes graphs without a cache.", fix, key="cache")
        return self


class BenchSection(Section):
    """How latency is measured: every batch size with every number of threads; decoders write ``new_tokens``, too."""

    batch_sizes: Counts = (1, 16)
    sequence_length: Count = 32
    new_tokens: Count = 32
    repeats: Count = 50
    threads: Annotated[
        tuple[Annotated[int | str, BeforeValidator(_threads)], ...],
        Field(min_length=1),
        AfterValidator(unique),
    ] = (1, "all")
