"""The one assembler: from a recipe's plain values to data, models, objectives and trainers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, TrainingArguments, set_seed

from distil_nlp.build.arguments import make_training_arguments
from distil_nlp.build.augmentation import make_augmentation
from distil_nlp.build.loss import make_objectives, make_schedules, make_weighting
from distil_nlp.build.rows import ScoredRows
from distil_nlp.build.teaching import make_guide, quantized
from distil_nlp.data.align import check_same_tokenizer, check_tokenizer_fits
from distil_nlp.data.augment import Augmentation
from distil_nlp.data.student_rows import StudentRows, new_copies, student_rows, unlabelled_rows
from distil_nlp.errors import ModelError
from distil_nlp.mapping import LayerMapping
from distil_nlp.objectives import LayerObjective, Objective
from distil_nlp.recipe.sections import WIDTHS, ModelReference
from distil_nlp.recipe.teachers import MemberSection
from distil_nlp.students import add_lora, build_student, choose_blocks, trim_vocabulary
from distil_nlp.students.labels import with_labels
from distil_nlp.teachers import ModelTeacher, Teacher
from distil_nlp.training import DistillationTrainer, choose_layers

logger = logging.getLogger(__name__)

MEMBERS = ("teacher", "other member of the ensemble")
FIRST_BATCHES = 16  # of 16 rows, on which a student's layers and their parts are chosen


class Assembly(ScoredRows):
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

    # ---- models ----

    def pretrained(self) -> PreTrainedModel:
        """The checkpoint that fine-tuning starts from; a head that it does not have is the same for every call."""
        reference = self.recipe.pretrained
        if reference is None:
            raise ModelError(
                "The pre-trained checkpoint is needed.",
                "The teacher is already fine-tuned, and nothing says from what.",
                "Give teacher.base.",
            )
        return self._load(reference)

    def teacher(self, member: MemberSection) -> PreTrainedModel:
        """One of ``recipe.teachers``: before its fine-tuning, or as it is given, which then fits the data.

        The members of an ensemble may know some of the data's labels, in an order of their own.
        """
        alone = self.recipe.teacher.ensemble is None
        if not alone:
            check_same_tokenizer(self.whole.tokenizer, self._loader.tokenizer(member), roles=MEMBERS)
        if member.fine_tune is not None:
            return self._load(member)
        teacher = self._load(member, keep_head=True)
        self.task.fit_teacher(teacher, self.label_names if alone else None)
        return teacher

    def student(self, teacher: PreTrainedModel) -> PreTrainedModel:
        """The student before its first step.

        Args:
            teacher: The teacher, in the vocabulary of these parts (:meth:`trimmed`).
        """
        section = self.recipe.student
        if section.vocabulary is not None and self.whole is self:
            raise ModelError(
                "The student is to have a vocabulary of its own.",
                "These are the parts in the teacher's.",
                "Use parts.for_student(teacher, parts.copies(teacher)), and of that .trimmed(teacher).",
            )
        if section.model is not None:
            reference = ModelReference(model=section.model, sha256=section.sha256, revision=section.revision)
            check_same_tokenizer(self.whole.tokenizer, self._loader.tokenizer(reference))
            student = self._load(reference)
        else:
            student = self.smaller(self.labelled(teacher) if section.start == "teacher" else self.pretrained())
        self.task.check_student(student, teacher)
        return self._with_adapters(student)

    def guide(self, teachers: Mapping[str, PreTrainedModel]) -> PreTrainedModel | Teacher:
        """What the student is taught by: the mean of all teachers; of one model, itself. Some may be quantized now."""
        return make_guide(self.recipe, quantized(self.recipe, teachers), self.label_names)

    def labelled(self, teacher: PreTrainedModel) -> PreTrainedModel:
        """A teacher whose head gives the data's labels in their order: the first of an ensemble may know others."""
        return teacher if self.label_names is None else with_labels(teacher, self.label_names)

    def control(self, name: str, teacher: PreTrainedModel) -> PreTrainedModel:
        """A control before its first step: the student's architecture, from one of two starts."""
        if name == "same_start" or self.recipe.student.model is not None:
            return self.student(teacher)
        return self._with_adapters(self.smaller(self.pretrained()))

    def _with_adapters(self, student: PreTrainedModel) -> Any:
        lora = self.recipe.student.lora
        set_seed(self.recipe.seed)  # the adapters' first weights
        return student if lora is None else add_lora(student, **lora.model_dump())

    def smaller(self, model: PreTrainedModel) -> PreTrainedModel:
        """The student's layers of a model, and of these the parts that are important on some training rows."""
        section = self.recipe.student
        depth = {key: getattr(section, key) for key in ("num_layers", "layers", "decoder_layers")}
        sizes = {key: size for key in WIDTHS if (size := getattr(section, key)) is not None}
        by_similarity = section.layers == "cka"
        set_seed(self.recipe.seed)  # what is random about batches
        batches = list(islice(self._train_batches(), FIRST_BATCHES)) if sizes or by_similarity else None
        if by_similarity:
            kept = list(choose_blocks(model, **depth, batches=batches).values())
            depth = {"layers": kept[0], "decoder_layers": kept[1] if len(kept) > 1 else None}
            self.progress("layers kept, which stand best for all: " + " and ".join(map(str, kept)))
        return build_student(model, **depth, **sizes, batches=batches)

    def _train_batches(self) -> Iterator[dict[str, Any]]:
        """Batches of 16 training rows, in an order that the seed decides."""
        rows = self.rows["train"].shuffle(seed=self.recipe.seed)
        collate = self.task.collator(self.tokenizer)
        for start in range(0, len(rows), 16):
            yield dict(collate([rows[i] for i in range(start, min(start + 16, len(rows)))]))

    def load_saved(self, folder: Path) -> PreTrainedModel:
        """A model that a stage has saved."""
        model: PreTrainedModel = self.task.auto_class.from_pretrained(folder, trust_remote_code=False)
        return model.eval()

    def score(self, model: PreTrainedModel, split: str) -> dict[str, float]:
        """A model's metrics on a split."""
        if self.task.scored_by_teacher:
            [teacher] = map(self.whole.teacher, self.recipe.teachers.values())
            references = self.whole.predictions(self.whole.outputs(teacher, split), split)
        else:
            references = self.references(split)
        return self.metrics(self.predictions(self.outputs(model, split), split), references)

    def _load(self, reference: Any, *, keep_head: bool = False) -> PreTrainedModel:
        arguments: dict[str, Any] = {}
        if keep_head:
            arguments["dtype"] = getattr(reference, "dtype", None) or torch.float32
        else:
            arguments = self.task.model_kwargs(self.label_names)
            arguments["ignore_mismatched_sizes"] = bool(arguments)  # of a head that other labels had
        set_seed(getattr(reference, "seed", self.recipe.seed))  # the head's first weights
        load = self._loader.fine_tuned if keep_head else self._loader.model
        model = load(reference, self.task.auto_class, **arguments)
        if model.config.pad_token_id is None:
            model.config.pad_token_id = self.whole.tokenizer.pad_token_id
        bench, key = self.recipe.bench, "bench.sequence_length"
        written = {f"{key} + bench.new_tokens": bench.sequence_length + bench.new_tokens}
        timed = written if self.recipe.task.decoding else {key: bench.sequence_length}
        for key, length in {**self.task.lengths, **timed}.items():
            check_tokenizer_fits(self.whole.tokenizer, model.config, max_length=length, key=key)
        return self.trimmed(model)

    # ---- training ----

    def objectives(self) -> list[Objective]:
        """New objectives as the recipe lists them, or the default ones.

        Raises:
            RecipeError: for whatever the recipe says of the loss that cannot be, with its line.
        """
        objectives = make_objectives(self.recipe, self.task.objective_arguments())
        make_schedules(self.recipe, objectives)
        make_weighting(self.recipe)
        return objectives

    def loss(self, student: PreTrainedModel, teacher: PreTrainedModel) -> dict[str, Any]:
        """What the student is trained under: new ``objectives``, ``callbacks`` and ``weighting`` for :meth:`trainer`.

        Layers that are to be paired by how alike they are (``mapping: cka``) are compared and paired here.
        """
        objectives = make_objectives(self.recipe, self.task.objective_arguments())
        self.choose_layers(objectives, student, teacher)
        callbacks, weighting = make_schedules(self.recipe, objectives), make_weighting(self.recipe)
        return {"objectives": objectives, "callbacks": callbacks, "weighting": weighting}

    def choose_layers(
        self, objectives: Sequence[Objective], student: PreTrainedModel, teacher: PreTrainedModel
    ) -> None:
        """Gives objectives with ``mapping: cka`` their pairs, from training rows that the seed decides."""
        waiting = [o for o in objectives if isinstance(o, LayerObjective) and o.mapping.to_be_chosen]
        if not waiting:
            return
        mapping: LayerMapping = choose_layers(student, teacher, self._train_batches())
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
        return make_training_arguments(self.recipe, arguments, output_dir, seed)

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
