"""A whole run as one value, validated before anything is downloaded or loaded.

Only plain values live here: torch and transformers are not imported before a recipe is loaded, whose training
arguments are then checked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, ValidationError, model_validator

from distil_nlp.errors import RecipeError, near_match
from distil_nlp.files import write_whole
from distil_nlp.recipe import yaml as recipe_yaml
from distil_nlp.recipe.arguments import check_training_arguments
from distil_nlp.recipe.errors import FaultError, explain
from distil_nlp.recipe.sections import (
    PARTS,
    Arguments,
    BenchSection,
    EvaluationSection,
    ExportSection,
    ModelReference,
    Section,
    Seed,
    StudentSection,
    WeightingSection,
    folder_name,
    mapping,
    unique,
)
from distil_nlp.recipe.stages import Stage, Stages, check_text
from distil_nlp.recipe.tasks import AnyTaskSection
from distil_nlp.recipe.teachers import MemberSection, TeacherSection

# Setting the key by an override drops what a recipe says in its place, or about its former value.
_REPLACES = {
    "task.dataset": ("task.sha256", "task.config", "task.revision", "task.split_names"),
    "teacher.model": ("teacher.sha256", "teacher.revision", "teacher.gguf_file", "teacher.base"),
    "student.num_layers": ("student.layers", "student.model", "student.sha256", "student.revision"),
    "student.layers": ("student.num_layers", "student.model", "student.sha256", "student.revision"),
    **{f"student.{key}": ("student.model", "student.sha256", "student.revision") for key in PARTS},
    "student.model": (
        *(f"student.{key}" for key in ("num_layers", "layers", "start", *PARTS)),
        "student.sha256",
        "student.revision",
    ),
}


def _replaced(key: str, data: dict[str, Any]) -> tuple[str, ...]:
    student = data.get("student")
    if isinstance(student, dict) and isinstance(student.get("layers"), str):  # a rule, beside which there is a number
        together = {"student.num_layers", "student.layers"}
        return tuple(other for other in _REPLACES.get(key, ()) if {key, other} != together)
    return _REPLACES.get(key, ())


def _names_of_controls(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return ("pretrained",) if value else ()
    return (value,) if isinstance(value, str) else value


class Recipe(Section):
    """A whole run: ``Recipe.load("movie_sentiment", ["training.num_train_epochs=1"])``.

    ``control`` is read from false, true (= pretrained), a name or a list, and is a tuple of names here.
    Paths in a recipe are relative to the working directory.
    """

    name: Annotated[str, AfterValidator(folder_name)]
    seed: Seed = 42
    task: AnyTaskSection
    teacher: TeacherSection
    student: StudentSection
    stages: Stages = Field(default_factory=dict)
    objectives: Annotated[dict[str, Arguments], BeforeValidator(mapping)] = Field(default_factory=dict)
    weighting: WeightingSection | None = None
    training: Arguments = Field(default_factory=dict)
    control: Annotated[
        tuple[Literal["pretrained", "same_start"], ...],
        BeforeValidator(_names_of_controls),
        AfterValidator(unique),
    ] = ()
    evaluation: EvaluationSection = EvaluationSection()
    export: ExportSection | None = None
    bench: BenchSection = BenchSection()

    _source: recipe_yaml.Source = PrivateAttr(default_factory=recipe_yaml.Source)

    @model_validator(mode="after")
    def _check_labels(self) -> Recipe:
        if self.task.labelled:
            return self
        found = f"Rows of {self.task.name} have no labels: only a teacher says what is right."
        for stage in self.distillation:
            if "task_loss" in stage.objectives:
                raise FaultError(found, "Leave it out.", key=stage.key("objectives.task_loss"))
        if self.control:
            raise FaultError(found, "Leave it out: a control is trained without a teacher.", key="control")
        if self.teacher.fine_tune is not None:
            raise FaultError(found, "Leave it out, and use a teacher that knows the task.", key="teacher.fine_tune")
        return self

    @model_validator(mode="after")
    def _check_ensemble(self) -> Recipe:
        if self.teacher.ensemble is not None and not self.task.averaged:
            found = f"The predictions of several models of {self.task.name} cannot be averaged."
            raise FaultError(found, "Leave it out.", key="teacher.ensemble")
        members = list(self.teachers.values())
        for number, member in enumerate(members):
            if member in members[:number]:
                found = f"All that is said of it is also said of teacher_{1 + members.index(member)}."
                raise FaultError(found, "Give it another `seed`.", key=f"teacher.ensemble.members.{number - 1}")
        return self

    @model_validator(mode="after")
    def _check_groups(self) -> Recipe:
        if getattr(self.task, "group", None) is None:
            return self
        on_task = {stage.key("training"): stage.training for stage in self.distillation if stage.text is None}
        for section, arguments in {**on_task, **self.teacher.trainings()}.items():
            strategy = arguments.get("train_sampling_strategy", "random")
            if strategy != "random":
                found = f"It is {strategy}, and the rows of a group (`task.group`) come side by side, groups at random."
                raise FaultError(found, "Leave it out.", key=f"{section}.train_sampling_strategy")
        return self

    @model_validator(mode="after")
    def _check_decoder(self) -> Recipe:
        if self.student.decoder_layers is not None and not self.task.encoder_decoder:
            found = f"Models of {self.task.name} have one stack of layers."
            raise FaultError(found, "Use num_layers or layers.", key="student.decoder_layers")
        return self

    @model_validator(mode="after")
    def _check_export(self) -> Recipe:
        if self.export is None:
            return self
        if self.export.cache is not None and not self.task.decoding:
            found = f"Models of {self.task.name} do not write token by token, so there is nothing to keep."
            raise FaultError(found, "Leave it out.", key="export.cache")
        if self.export.backend == "native" and self.task.encoder_decoder:
            found = f"The backend 'native' makes one graph, and models of {self.task.name} need one for each part."
            raise FaultError(found, "Use backend: optimum.", key="export.backend")
        if self.task.num_beams > 1:
            found = "Exports take the likeliest token each time, and could not be compared with the student."
            raise FaultError(found, "Use 1, or leave `export` out.", key="task.generate.num_beams")
        return self

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        from_teacher = self.student.model is None
        for stage in self.distillation:
            if stage.text is not None:
                started = from_teacher and self.student.start == "teacher"
                check_text(stage, self.task, pretrained=self.pretrained is not None, from_teacher=started)
        if not from_teacher and len(self.control) > 1:
            raise FaultError("Both start from the student's checkpoint.", "Name one.", key="control")
        if from_teacher and self.pretrained is None:
            found = "The teacher is already fine-tuned, and the recipe does not say from which checkpoint."
            fix = "Give teacher.base (the model it was fine-tuned from), or teacher.fine_tune, or "
            if "pretrained" in self.control:
                raise FaultError(found, fix + "control: same_start.", key="control")
            if self.student.start == "pretrained":
                raise FaultError(found, fix + "student.start: teacher.", key="student.start")
        return self

    @classmethod
    def load(cls, path_or_name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """Reads and validates a recipe.

        Args:
            path_or_name: A YAML file, or the name of a recipe that ships with the library.
            overrides: ``section.key=value``, each value in YAML, applied in order.

        Raises:
            RecipeError: With the file, line and column (or the override) at fault, and the near match.
        """
        file = find_recipe(path_or_name)
        data, source = recipe_yaml.read(file)
        if Path(path_or_name).is_file():  # not one that ships with the library
            source = dataclasses.replace(source, code_folder=file.parent.resolve())
        keys = [recipe_yaml.override(data, source, text) for text in overrides]
        for key in keys:
            for section, _, replaced in (other.partition(".") for other in _replaced(key, data)):
                if f"{section}.{replaced}" not in keys and isinstance(data[section], dict):
                    data[section].pop(replaced, None)
        if data.get("name") is None:
            data["name"] = file.stem
        try:
            recipe = cls.model_validate(data)
        except ValidationError as error:
            raise explain(error, cls, source) from None
        recipe._source = source
        stages = {stage.key("training"): stage.training for stage in recipe.distillation}
        for key, arguments in {**stages, **recipe.teacher.trainings()}.items():
            check_training_arguments(arguments, source, tuple(key.split(".")))
        return recipe

    @property
    def teachers(self) -> dict[str, MemberSection]:
        """Every model that teaches, by its name in the run, with all that is said of it; the first makes students."""
        return self.teacher.models(self.seed)

    @property
    def distillation(self) -> tuple[Stage, ...]:
        """What the student goes through, in order: ``stages``, and last the recipe's own objectives and training."""
        earlier = [
            Stage(name, stage.objectives, stage.weighting, stage.training, stage.text)
            for name, stage in self.stages.items()
        ]
        return (*earlier, Stage("", self.objectives, self.weighting, self.training))

    @property
    def pretrained(self) -> ModelReference | None:
        """The checkpoint before any fine-tuning, as far as the recipe says; a language model may be one itself."""
        if self.teacher.fine_tune is not None:
            return self.teacher
        return self.teacher.base or (self.teacher if self.task.pretrained_suffices else None)

    @property
    def code_folder(self) -> Path | None:
        """Where modules with objectives of the user's own lie; None for a recipe that was not named by its path."""
        return self._source.code_folder

    def line_of(self, key: str) -> str:
        """Returns where a dotted key, or else its section, was written: ``file:line:column``."""
        return self._source.where(tuple(key.split(".")))

    def to_yaml(self) -> str:
        """Returns the resolved recipe, defaults and overrides included; it loads back equal."""
        return recipe_yaml.dump(self.model_dump())

    def save(self, path: str | Path) -> None:
        """Writes :meth:`to_yaml`, whole or not at all."""
        write_whole(Path(path), self.to_yaml())


def shipped_recipes() -> dict[str, Path]:
    """Returns the recipes that come with the library, by name."""
    package = Path(__file__).parents[1]
    folder = package / "_tasks" if (package / "_tasks").is_dir() else package.parent / "tasks"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def find_recipe(path_or_name: str | Path) -> Path:
    """Returns the file of a recipe, given its path or the name of one that ships with the library.

    Raises:
        RecipeError: There is no such file or name.
    """
    path, shipped = Path(path_or_name), shipped_recipes()
    if path.is_file():
        return path
    if str(path_or_name) in shipped:
        return shipped[str(path_or_name)]
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1 or path.is_dir():
        found = "It is a folder." if path.is_dir() else "There is no such file."
        raise RecipeError(f"Cannot read the recipe '{path_or_name}'.", found, "Give the path of a YAML file.")
    raise RecipeError(
        f"Unknown recipe '{path_or_name}'.",
        near_match(str(path_or_name), shipped),
        "Give one of these names, or the path of a YAML file.",
    )
