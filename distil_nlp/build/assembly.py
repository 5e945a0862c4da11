"""The one assembler: from a recipe's plain values to data, models, objectives and trainers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from tempfile import gettempdir
from typing import Any, NamedTuple

from datasets import Dataset
from transformers import PreTrainedModel, TrainingArguments, set_seed

from distil_nlp.build.arguments import check_training, make_training_arguments, rows_trained_on
from distil_nlp.build.augmentation import make_augmentation
from distil_nlp.build.loss import make_objectives, make_schedules, make_weighting
from distil_nlp.build.models import Models
from distil_nlp.build.teaching import as_they_teach, make_stored
from distil_nlp.data.augment import Augmentation
from distil_nlp.data.student_rows import StudentRows, new_copies, student_rows, unlabelled_rows
from distil_nlp.mapping import LayerMapping
from distil_nlp.objectives import LayerObjective, Objective
from distil_nlp.recipe.stages import Stage
from distil_nlp.students import trim_vocabulary
from distil_nlp.teachers import ModelTeacher, Teacher
from distil_nlp.training import DistillationTrainer, choose_layers
from distil_nlp.training.checks import check_arguments


class Lesson(NamedTuple):
    """By whom the student is taught, and what it reads.

    Attributes:
        teacher: The model whose layers are followed.
        guide: All that teaches, the teacher among it.
        rows: Tokenized.
    """

    teacher: PreTrainedModel
    guide: PreTrainedModel | Teacher
    rows: Dataset


class Beginning(NamedTuple):
    """A student before its first lesson.

    Attributes:
        parts: The recipe's parts in its vocabulary.
        student: The student.
        lesson: What it is taught on the task.
        augmented: How many of the rows are copies of others.
    """

    parts: Assembly
    student: PreTrainedModel
    lesson: Lesson
    augmented: int


class Assembly(Models):
    """A recipe's parts, each built when it is first asked for and kept, but for models, which are built anew.

    Args:
        recipe: The recipe.
        progress: Called with one line for each step that takes time.
    """

    def for_student(self, teacher: PreTrainedModel, copies: Dataset | None) -> Assembly:
        """The parts in the student's vocabulary, if it has one of its own: the tokens that its training texts use.

        Args:
            teacher: The teacher.
            copies: What :meth:`copies` gives, which the student is trained on, too.
        """
        section = self.recipe.student.vocabulary
        if section is None:
            return self
        rows = [self.data.splits["train"], *unlabelled_rows(self.data.splits, copies)]
        texts = chain.from_iterable(self.task.corpus(each, self.tokenizer) for each in rows)
        trimmed = trim_vocabulary(teacher, self.tokenizer, texts, **section.model_dump())
        self.progress(str(trimmed))
        return self.in_vocabulary(trimmed.tokenizer)

    # ---- training ----

    def begin(self, teachers: Mapping[str, PreTrainedModel], folder: Path) -> Beginning:
        """The student, from the layers of the first teacher, and what it is taught on the task by all of them.

        Args:
            teachers: By name, as saved.
            folder: The run's, where texts that a teacher writes are kept.
        """
        [teacher, *_] = teachers.values()
        copies = self.copies(teacher)
        parts = self.for_student(teacher, copies)
        teachers = {name: parts.trimmed(model) for name, model in teachers.items()}
        [teacher, *_] = teachers.values()
        student = parts.student(teacher)  # from exact weights, which a teacher may not have while it teaches
        teachers = as_they_teach(self.recipe, teachers)
        [teacher, *_] = teachers.values()
        guide = parts.guide(teachers)
        rows, augmented = parts.student_rows(teacher, copies, folder)
        return Beginning(parts, student, Lesson(teacher, guide, rows), augmented)

    def lesson(self, stage: Stage, on_task: Lesson) -> Lesson:
        """What a stage of distillation is about: the task, or text, on which the pre-trained checkpoint teaches."""
        if stage.text is None:
            return on_task
        [first, *_] = self.recipe.teachers
        [pretrained] = as_they_teach(self.recipe, {first: self.pretrained()}).values()
        return Lesson(pretrained, pretrained, self.texts(stage.text))

    def objectives(self, stage: Stage | None = None) -> list[Objective]:
        """New objectives as a stage lists them (the last one if None), or the default ones.

        Raises:
            RecipeError: for whatever the recipe says of the loss that cannot be, with its line.
        """
        objectives: list[Objective] = self._loss(stage)["objectives"]
        return objectives

    def loss(
        self, student: PreTrainedModel, teacher: PreTrainedModel, stage: Stage | None = None, rows: Any = None
    ) -> dict[str, Any]:
        """What the student is trained under: new ``objectives``, ``callbacks`` and ``weighting`` for :meth:`trainer`.

        Layers that are to be paired by how alike they are (``mapping: cka``) are compared and paired here.

        Args:
            student: The student.
            teacher: The teacher.
            stage: Of ``recipe.distillation``; the last one if None.
            rows: Tokenized ones to compare layers on; those of training if None.
        """
        loss = self._loss(stage)
        self.choose_layers(loss["objectives"], student, teacher, rows)
        return loss

    def _loss(self, stage: Stage | None) -> dict[str, Any]:
        stage = stage or self.recipe.distillation[-1]
        objectives = make_objectives(self.recipe, stage, self.task.objective_arguments())
        callbacks, weighting = make_schedules(self.recipe, stage, objectives), make_weighting(self.recipe, stage)
        return {"objectives": objectives, "callbacks": callbacks, "weighting": weighting}

    def taught(self, student: PreTrainedModel, lesson: Lesson, stage: Stage, folder: Path) -> dict[str, Any]:
        """What :meth:`trainer` takes for a stage of distillation: its rows, its arguments, its loss, and who teaches.

        Args:
            student: The student.
            lesson: What the stage is about.
            stage: The stage.
            folder: The run's, where the teacher's outputs on the task's rows are stored if the recipe has them stored.
        """
        loss = self.loss(student, lesson.teacher, stage, lesson.rows)
        stored = None
        if stage.text is None:
            stored = make_stored(self.recipe, lesson.guide, folder / "teacher_outputs", loss["objectives"])
        if stored is not None:
            arguments = self.training_arguments(stage.training, folder / "checkpoints" / stage.model)
            stored.expected_rows = rows_trained_on(arguments, len(lesson.rows))
        return {"teacher": stored or lesson.guide, "rows": lesson.rows, "arguments": stage.training, **loss}

    def choose_layers(
        self, objectives: Sequence[Objective], student: PreTrainedModel, teacher: PreTrainedModel, rows: Any = None
    ) -> None:
        """Gives objectives with ``mapping: cka`` their pairs, from rows in an order that the seed decides."""
        waiting = [o for o in objectives if isinstance(o, LayerObjective) and o.mapping.to_be_chosen]
        if not waiting:
            return
        set_seed(self.recipe.seed)  # what is random about batches
        mapping: LayerMapping = choose_layers(student, teacher, self._train_batches(rows))
        self.progress(f"layers chosen by their similarity: {mapping}")
        for objective in waiting:
            objective.mapping = mapping

    def augmentation(self, teacher: PreTrainedModel) -> Augmentation | None:
        """How copies of the training rows are made for the student; None for none."""
        return make_augmentation(self.recipe, self._loader, tokenizer=self.tokenizer, teacher=teacher)

    def copies(self, teacher: PreTrainedModel) -> Dataset | None:
        """Clean copies of the training rows with other words, for the student alone; None for none."""
        how = self.augmentation(teacher)
        return None if how is None else new_copies(self.task, self.data.splits, how, self.progress)

    def student_rows(self, teacher: PreTrainedModel, copies: Dataset | None, folder: Path) -> StudentRows:
        """All rows that the student is trained on: the labelled ones, and those that its teacher alone labels."""
        labelled = self.distilled_rows(teacher, folder)
        return student_rows(self.task, self.data.splits, labelled, tokenizer=self.tokenizer, copies=copies)

    def distilled_rows(self, teacher: PreTrainedModel, folder: Path) -> Any:
        """The training rows as the student learns them; what the teacher is asked for is kept in the run's folder."""
        arguments = self.training_arguments(self.recipe.training, folder / "checkpoints")
        with arguments.main_process_first(desc="the teacher's part in the rows"):
            return self.task.distilled(
                self.rows["train"],
                self.tokenizer,
                teacher=teacher.to(arguments.device),  # type: ignore[arg-type]
                fingerprint=ModelTeacher(teacher).fingerprint,
                folder=folder,
                batch_size=self.recipe.evaluation.batch_size,
            )

    def training_arguments(
        self, arguments: dict[str, Any], output_dir: Path, seed: int | None = None
    ) -> TrainingArguments:
        """A section of the recipe as ``TrainingArguments``, under its seed or another one."""
        return make_training_arguments(self.recipe, arguments, output_dir, seed, metrics=self._followed)

    def checked_arguments(
        self, key: str, arguments: dict[str, Any], *, of: str, terms: Sequence[str], rows: int
    ) -> TrainingArguments:
        """A section of the recipe as ``TrainingArguments`` under which training would come to its end.

        Args:
            key: Of the section.
            arguments: The section.
            of: Whose training it is.
            terms: Of its loss, by name.
            rows: To train on.

        Raises:
            RecipeError: with the line of the recipe.
            ModelError: for what does not go with distillation.
        """
        made = self.training_arguments(arguments, Path(gettempdir()))
        check_arguments(made)
        check_training(self.recipe, key, made, of=of, terms=terms, metrics=self._followed, rows=rows)
        return made

    @property
    def _followed(self) -> tuple[str, ...]:
        """The metrics that follow while a model trains."""
        return self.metric_names if self.task.by_row else ()

    def trainer(
        self,
        model: PreTrainedModel,
        *,
        arguments: dict[str, Any],
        output_dir: Path,
        teacher: PreTrainedModel | Teacher | None = None,
        rows: Any = None,
        seed: int | None = None,
        **loss: Any,
    ) -> DistillationTrainer:
        """A trainer on the recipe's rows; without a teacher it fine-tunes.

        Args:
            model: The student, or the teacher-to-be.
            arguments: The recipe's ``training`` or ``teacher.fine_tune``.
            output_dir: Where checkpoints go.
            teacher: The teacher.
            rows: Tokenized rows to train on; the recipe's if None.
            seed: Of what is random; the recipe's if None.
            **loss: What :meth:`loss` gives, or ``objectives``.
        """
        return DistillationTrainer(
            model=model,
            teacher=teacher,
            **loss,
            args=self.training_arguments(arguments, output_dir, seed),
            train_dataset=self.rows["train"] if rows is None else rows,
            eval_dataset=self.rows["validation"],
            processing_class=self.tokenizer,
            data_collator=self.task.collator(self.tokenizer),
            eval_collator=self.task.collator(self.tokenizer, train=False),
            compute_metrics=self.validation_metrics if self.task.by_row else None,
        )
