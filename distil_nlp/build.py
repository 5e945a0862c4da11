"""The one assembler: from a recipe's plain values to data, models, objectives and trainers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments, set_seed

from distil_nlp.data.align import align_labels, check_same_tokenizer, check_tokenizer_fits
from distil_nlp.data.load import TaskData, load_task_data
from distil_nlp.data.task import TASKS, Task
from distil_nlp.errors import ModelError, RecipeError
from distil_nlp.evaluation.metrics import compute_metrics
from distil_nlp.loss_of_recipe import make_objectives, make_schedules, make_weighting
from distil_nlp.mapping import LayerMapping
from distil_nlp.objectives import LayerObjective, Objective
from distil_nlp.recipe import Recipe
from distil_nlp.recipe_sections import ModelReference
from distil_nlp.references import HubReference, hub_access, pretrained_arguments, resolve
from distil_nlp.students import build_student
from distil_nlp.training import DistillationTrainer, choose_layers

logger = logging.getLogger(__name__)

# What a recipe may overrule; every other argument has transformers' own default.
TRAINING_DEFAULTS = {
    "report_to": "none",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "logging_steps": 20,
}


class Assembly:
    """A recipe's parts, each built when it is first asked for and kept, but for models, which are built anew.

    Args:
        recipe: The recipe.
        progress: Called with one line for each step that takes time.
    """

    def __init__(self, recipe: Recipe, progress: Callable[[str], None] = logger.info) -> None:
        self.recipe, self.progress = recipe, progress
        self._sources: dict[tuple[str | None, ...], Path | HubReference] = {}

    # ---- data ----

    @cached_property
    def task(self) -> Task:
        """What is learned."""
        return TASKS[self.recipe.task.name]

    @cached_property
    def data(self) -> TaskData:
        """Clean rows in three splits."""
        return load_task_data(self.recipe.task, self.progress)

    @cached_property
    def label_names(self) -> list[str] | None:
        """Names of the label ids."""
        return self.task.label_names(self.data.splits["train"])

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The teacher's tokenizer, which is the student's too."""
        return self._load_tokenizer(self.recipe.teacher)

    @cached_property
    def rows(self) -> dict[str, Any]:
        """Tokenized rows by split."""
        length = self.recipe.task.max_length
        return {name: self.task.tokenize(rows, self.tokenizer, length) for name, rows in self.data.splits.items()}

    @cached_property
    def metric_names(self) -> tuple[str, ...]:
        """The recipe's metrics, or the task's own; the first is the headline."""
        return self.recipe.task.metrics or self.task.metrics

    @cached_property
    def metrics(self) -> Callable[[Any, Any], dict[str, float]]:
        """From predictions and references to the value of each metric."""
        return compute_metrics(self.metric_names, num_labels=len(self.label_names) if self.label_names else None)

    # ---- models ----

    def pretrained(self) -> PreTrainedModel:
        """The checkpoint that fine-tuning starts from, with a fresh head (the same for every call)."""
        section = self.recipe.teacher
        reference = section if section.fine_tune is not None else section.base
        if reference is None:
            raise ModelError(
                "The pre-trained checkpoint is needed.",
                "The teacher is already fine-tuned, and nothing says from what.",
                "Give teacher.base.",
            )
        return self._load(reference)

    def given_teacher(self) -> PreTrainedModel:
        """The teacher as the recipe names it, which must be fine-tuned already and know the data's labels."""
        teacher = self._load(self.recipe.teacher, keep_head=True)
        if self.label_names:
            align_labels(teacher.config, self.label_names)
        return teacher

    def student(self, teacher: PreTrainedModel) -> PreTrainedModel:
        """The student before its first step."""
        section = self.recipe.student
        if section.model is not None:
            reference = ModelReference(model=section.model, sha256=section.sha256, revision=section.revision)
            check_same_tokenizer(self.tokenizer, self._load_tokenizer(reference))
            return self._load(reference)
        return self.shallower(teacher if section.start == "teacher" else self.pretrained())

    def control(self, name: str, teacher: PreTrainedModel) -> PreTrainedModel:
        """A control before its first step: the student's architecture, from one of two starts."""
        if name == "same_start" or self.recipe.student.model is not None:
            return self.student(teacher)
        return self.shallower(self.pretrained())

    def shallower(self, model: PreTrainedModel) -> PreTrainedModel:
        """The student's layers of a model."""
        section = self.recipe.student
        return build_student(model, num_layers=section.num_layers, layers=section.layers)

    def load_saved(self, folder: Path) -> PreTrainedModel:
        """A model that a stage has saved."""
        model: PreTrainedModel = self.task.auto_class.from_pretrained(folder, trust_remote_code=False)
        return model.eval()

    def _load(self, reference: Any, *, keep_head: bool = False) -> PreTrainedModel:
        source, gguf_file = self._source(reference), getattr(reference, "gguf_file", None)
        name, arguments = pretrained_arguments(source, gguf_file)
        if not keep_head:
            arguments |= self.task.model_kwargs(self.label_names) | {"ignore_mismatched_sizes": True}
        dtype = getattr(reference, "dtype", None) if keep_head else None
        set_seed(self.recipe.seed)  # the head's first weights
        with hub_access(source):
            model: PreTrainedModel = self.task.auto_class.from_pretrained(
                name, dtype=dtype or torch.float32, use_safetensors="gguf_file" not in arguments or None, **arguments
            )
        if model.config.pad_token_id is None:
            model.config.pad_token_id = self.tokenizer.pad_token_id
        check_tokenizer_fits(self.tokenizer, model.config, max_length=self.recipe.task.max_length)
        return model

    def _load_tokenizer(self, reference: Any) -> PreTrainedTokenizerBase:
        source = self._source(reference)
        name, arguments = pretrained_arguments(source, getattr(reference, "gguf_file", None))
        with hub_access(source):
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, **arguments)
        if tokenizer.pad_token is None and tokenizer.eos_token is not None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def _source(self, reference: Any) -> Path | HubReference:
        which = {"sha256": reference.sha256, "revision": reference.revision}
        which["gguf_file"] = getattr(reference, "gguf_file", None)
        key = (reference.model, *which.values())
        if key not in self._sources:
            self._sources[key] = resolve(reference.model, **which, progress=self.progress)
        return self._sources[key]

    # ---- training ----

    def objectives(self) -> list[Objective]:
        """New objectives as the recipe lists them, or the default ones.

        Raises:
            RecipeError: for whatever the recipe says of the loss that cannot be, with its line.
        """
        objectives = make_objectives(self.recipe)
        make_schedules(self.recipe, objectives)
        make_weighting(self.recipe)
        return objectives

    def loss(self, student: PreTrainedModel, teacher: PreTrainedModel) -> dict[str, Any]:
        """What the student is trained under: new ``objectives``, ``callbacks`` and ``weighting`` for :meth:`trainer`.

        Layers that are to be paired by how alike they are (``mapping: cka``) are compared and paired here.
        """
        objectives = make_objectives(self.recipe)
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
        rows = self.rows["train"].shuffle(seed=self.recipe.seed)
        collate = self.task.collator(self.tokenizer)
        starts = range(0, len(rows), 16)
        batches = (dict(collate([rows[i] for i in range(at, min(at + 16, len(rows)))])) for at in starts)
        mapping: LayerMapping = choose_layers(student, teacher, batches)
        self.progress(f"layers chosen by their similarity: {mapping}")
        for objective in waiting:
            objective.mapping = mapping

    def training_arguments(self, arguments: dict[str, Any], output_dir: Path) -> TrainingArguments:
        """A section of the recipe as ``TrainingArguments``.

        Raises:
            RecipeError: for arguments that do not go together, or that this machine cannot serve.
        """
        values = {**TRAINING_DEFAULTS, "dataloader_pin_memory": torch.cuda.is_available(), **arguments}
        try:
            return TrainingArguments(output_dir=str(output_dir), seed=self.recipe.seed, **values)
        except (ValueError, ImportError) as error:
            raise RecipeError(
                "The training arguments do not go together, or not with this machine.",
                str(error),
                f"Correct `training` or `teacher.fine_tune` in the recipe ({self.recipe.line_of('training')}).",
            ) from None

    def trainer(
        self,
        model: PreTrainedModel,
        *,
        arguments: dict[str, Any],
        output_dir: Path,
        teacher: PreTrainedModel | None = None,
        **loss: Any,
    ) -> DistillationTrainer:
        """A trainer on the recipe's rows; without a teacher it fine-tunes.

        Args:
            model: The student, or the teacher-to-be.
            arguments: The recipe's ``training`` or ``teacher.fine_tune``.
            output_dir: Where checkpoints go.
            teacher: The teacher.
            **loss: What :meth:`loss` gives, or ``objectives``.
        """
        return DistillationTrainer(
            model=model,
            teacher=teacher,
            **loss,
            args=self.training_arguments(arguments, output_dir),
            train_dataset=self.rows["train"],
            eval_dataset=self.rows["validation"],
            processing_class=self.tokenizer,
            data_collator=self.task.collator(self.tokenizer),
            compute_metrics=self._score,
        )

    def _score(self, prediction: Any) -> dict[str, float]:
        logits = prediction.predictions
        return self.metrics(self.task.predictions(np.asarray(logits)), prediction.label_ids)
