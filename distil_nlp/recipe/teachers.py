"""The ``teacher`` section of a recipe: one model that teaches, or several."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from distil_nlp.recipe.errors import FaultError
from distil_nlp.recipe.sections import Count, ModelReference, Positive, Section, Seed, Word


def _reference(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


class StoreSection(Section):
    """Where the teacher's outputs are stored, how many of its logits, how precisely, and in how much space."""

    folder: Word | None = None
    top_k: Count | None = None
    dtype: Literal["float32", "float16", "int8"] = "float32"
    budget_mb: Positive = 10_000.0


class TeacherModelSection(ModelReference):
    """A model that teaches: fine-tuned here (``fine_tune``), or already (``base`` is what it was fine-tuned from)."""

    gguf_file: Word | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    quantization: Literal["int8", "nf4"] | None = None
    fine_tune: dict[str, Any] | None = None
    base: Annotated[ModelReference | None, BeforeValidator(_reference)] = None

    @model_validator(mode="after")
    def _check_dtype(self) -> TeacherModelSection:
        if self.fine_tune is not None and self.dtype == "auto":
            found = "It is the checkpoint's own, and a teacher that is fine-tuned here comes out in float32."
            raise FaultError(found, "Name one: bfloat16, say.", key="dtype")
        return self


class MemberSection(TeacherModelSection):
    """A further member of an ensemble; without a ``model``, the teacher's, fine-tuned under another ``seed``."""

    model: Word | None = None  # type: ignore[assignment]
    seed: Seed | None = None

    @model_validator(mode="after")
    def _check_model(self) -> MemberSection:
        if self.model is None:
            for key in ("revision", "gguf_file", "dtype", "base"):
                if getattr(self, key) is not None:
                    raise FaultError("It is about a model, and none is named.", "Name the `model`.", key=key)
        elif self.seed is not None and self.fine_tune is None:
            found = "Nothing is drawn at random for a member that is fine-tuned already."
            raise FaultError(found, "Leave it out, or give the member `fine_tune`.", key="seed")
        return self


class EnsembleSection(Section):
    """The further members of an ensemble, of which the teacher is the first, and how their predictions are averaged."""

    members: Annotated[tuple[MemberSection, ...], Field(min_length=1)]
    weights: tuple[Positive, ...] | None = None
    by_confidence: Literal["entropy", "max_prob"] | None = None
    average: Literal["probabilities", "logits"] = "probabilities"

    @model_validator(mode="after")
    def _check_weights(self) -> EnsembleSection:
        if self.weights is not None and len(self.weights) != 1 + len(self.members):
            found = f"It has {len(self.weights)} numbers, and the ensemble {1 + len(self.members)} members."
            fix = "Give one for each: first that of teacher.model, then those of `members`."
            raise FaultError(found, fix, key="weights")
        return self


class TeacherSection(TeacherModelSection):
    """The teacher: a model, or the first of several."""

    ensemble: EnsembleSection | None = None
    store: StoreSection | None = None

    @model_validator(mode="after")
    def _check_members(self) -> TeacherSection:
        members = self.ensemble.members if self.ensemble else ()
        for number, member in enumerate(members):
            if member.model is None and self.fine_tune is None and member.fine_tune is None:
                found = "It names no model, so it is the teacher's under another seed; that is fine-tuned already."
                raise FaultError(found, "Name a `model`.", key=f"ensemble.members.{number}")
        return self

    def trainings(self) -> dict[str, dict[str, Any]]:
        """The arguments of every fine-tuning, by their key in the recipe."""
        members = self.ensemble.members if self.ensemble else ()
        given = {"teacher.fine_tune": self.fine_tune}
        given |= {f"teacher.ensemble.members.{number}.fine_tune": each.fine_tune for number, each in enumerate(members)}
        return {key: arguments for key, arguments in given.items() if arguments is not None}

    def models(self, seed: int) -> dict[str, MemberSection]:
        """Every model that teaches, by its name in the run: ``teacher``, or ``teacher_1`` and so on.

        Args:
            seed: Of those that have none of their own.
        """
        own = {key: getattr(self, key) for key in TeacherModelSection.model_fields}
        first = MemberSection.model_construct(**own, seed=seed)
        if self.ensemble is None:
            return {"teacher": first}
        members = [first, *(_completed(member, first) for member in self.ensemble.members)]
        return {f"teacher_{number}": member for number, member in enumerate(members, start=1)}


def _completed(member: MemberSection, first: MemberSection) -> MemberSection:
    said = {key: value for key in ("fine_tune", "quantization", "seed") if (value := getattr(member, key)) is not None}
    if member.model is None:
        return first.model_copy(update=said)
    return member.model_copy(update={"seed": first.seed} | said)
