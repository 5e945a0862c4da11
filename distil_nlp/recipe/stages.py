"""Distillation in several stages: what comes before a recipe's own ``objectives`` and ``training``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from distil_nlp.errors import near_match
from distil_nlp.recipe.errors import FaultError
from distil_nlp.recipe.rows import Texts, UnlabelledSection
from distil_nlp.recipe.sections import Arguments, Section, WeightingSection, mapping


class StageSection(Section):
    """A stage before the last one; with ``text`` the pre-trained checkpoint teaches on that alone, features only."""

    text: Texts = None
    objectives: Annotated[dict[str, Arguments], BeforeValidator(mapping), Field(min_length=1)]
    weighting: WeightingSection | None = None
    training: Arguments = Field(default_factory=dict)


def _named(stages: dict[str, StageSection]) -> dict[str, StageSection]:
    for name in stages:
        if not re.fullmatch("[A-Za-z0-9_-]+", name):
            found = f"A stage is called {name!r}."
            raise FaultError(found, "A folder is named so: use letters, digits, - and _.", key=name)
    return stages


Stages = Annotated[dict[str, StageSection], BeforeValidator(mapping), AfterValidator(_named)]


@dataclass(frozen=True)
class Stage:
    """One stage of distillation, the last one among them.

    Attributes:
        name: As the recipe calls it; empty for the last one.
        objectives: The terms of the loss; empty for the task's own.
        weighting: What adapts their weights.
        training: Arguments of training.
        text: What it is about in the place of the task's rows.
    """

    name: str
    objectives: Mapping[str, Mapping[str, Any]]
    weighting: WeightingSection | None
    training: dict[str, Any]
    text: UnlabelledSection | None = None

    @property
    def model(self) -> str:
        """What the student that it leaves is called in a run."""
        return f"student_{self.name}" if self.name else "student"

    def key(self, key: str) -> str:
        """The dotted key of the recipe at which a key of this stage stands."""
        return f"stages.{self.name}.{key}" if self.name else key


def check_text(stage: Stage, task: Any, *, pretrained: bool, from_teacher: bool) -> None:
    """Refuses a stage on text that its task, its teacher or its student does not allow.

    Args:
        stage: One with ``text``.
        task: The ``task`` section.
        pretrained: Whether the recipe says what the pre-trained checkpoint is, which teaches it.
        from_teacher: Whether the student starts from layers of the fine-tuned teacher.
    """
    key, alone = stage.key("text"), task.text_keys[:1]
    if not alone:
        raise FaultError(f"A student of {task.name} cannot have text without labels.", "Leave it out.", key=key)
    for name in stage.text.columns if stage.text else ():
        if name not in alone:
            found = f"It names the column of '{name}', and each text is by itself here."
            raise FaultError(found, f"{near_match(name, alone)} Write {{ours: theirs}}.", key=f"{key}.columns")
    if not pretrained:
        found = "The pre-trained checkpoint teaches on it, and the recipe does not say which that is."
        fix = "Give teacher.base (the model that the teacher was fine-tuned from), or teacher.fine_tune."
        raise FaultError(found, fix, key=key)
    if from_teacher:
        found = "The pre-trained checkpoint teaches on it, and the student would start from the fine-tuned teacher."
        raise FaultError(found, "Give student.start: pretrained.", key=key)
