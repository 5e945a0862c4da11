"""The models of a recipe: teachers, the student and its controls, each before its first step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, set_seed

from distil_nlp.build.rows import ScoredRows
from distil_nlp.build.teaching import make_guide
from distil_nlp.data.align import check_same_tokenizer, check_tokenizer_fits, fit_padding
from distil_nlp.errors import ModelError
from distil_nlp.recipe.sections import WIDTHS, ModelReference
from distil_nlp.recipe.teachers import MemberSection
from distil_nlp.students import add_lora, build_student, choose_blocks
from distil_nlp.students.choice import MEASURED
from distil_nlp.students.labels import with_labels
from distil_nlp.teachers import Teacher

MEMBERS = ("teacher", "other member of the ensemble")
FIRST_BATCHES = 16  # of 16 rows, on which a student's layers and their parts are chosen


class Models(ScoredRows):
    """A recipe's rows, and its models, which are built anew whenever they are asked for.

    Args:
        recipe: The recipe.
        progress: Called with one line for each step that takes time.
    """

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
        """What the student is taught by: the mean of all teachers, each as it teaches; of one model, itself."""
        return make_guide(self.recipe, teachers, self.label_names)

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
        measured = section.layers in MEASURED
        set_seed(self.recipe.seed)  # what is random about batches
        batches = list(islice(self._train_batches(), FIRST_BATCHES)) if sizes or measured else None
        if measured:
            kept = list(choose_blocks(model, **depth, batches=batches).values())
            depth = {"layers": kept[0], "decoder_layers": kept[1] if len(kept) > 1 else None}
            self.progress(f"layers kept, by their {section.layers}: " + " and ".join(map(str, kept)))
        return build_student(model, **depth, **sizes, batches=batches)

    def _train_batches(self, rows: Dataset | None = None) -> Iterator[dict[str, Any]]:
        """Batches of 16 rows, those of training if none are given, in an order that the seed decides."""
        rows = (self.rows["train"] if rows is None else rows).shuffle(seed=self.recipe.seed)
        collate = self.task.collator(self.tokenizer)
        for start in range(0, len(rows), 16):
            yield dict(collate([rows[i] for i in range(start, min(start + 16, len(rows)))]))

    def trained(self, folder: Path) -> PreTrainedModel:
        """The student that a stage of distillation has saved, to go on with; low-rank adapters are new ones."""
        return self._with_adapters(self.load_saved(folder))

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
        fit_padding(model.config, self.whole.tokenizer)
        bench, key = self.recipe.bench, "bench.sequence_length"
        written = {f"{key} + bench.new_tokens": bench.sequence_length + bench.new_tokens}
        timed = written if self.recipe.task.decoding else {key: bench.sequence_length}
        for key, length in {**self.task.lengths, **timed}.items():
            check_tokenizer_fits(self.whole.tokenizer, model.config, max_length=length, key=key)
        return self.trimmed(model)
