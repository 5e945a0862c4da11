"""`transformers.Trainer`, and what distillation changes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate.utils import broadcast
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainingArguments

from distil_nlp.blocks import describe, inner_model
from distil_nlp.capture import capture, prepare_attention
from distil_nlp.errors import ModelError
from distil_nlp.objectives import Objective
from distil_nlp.signals import Needs, Signals
from distil_nlp.teachers import Teacher, as_teacher
from distil_nlp.training.batches import BatchTrainer
from distil_nlp.training.callbacks import EpochCallback, check_scheduled, scheduled_values
from distil_nlp.training.checks import (
    check_arguments,
    check_inside,
    check_kind_of,
    check_labels,
    check_models,
    checked_objectives,
    fit_teachers,
    make_savable,
    refuse_non_finite,
    train_ends,
)
from distil_nlp.training.terms import forget_step, in_use, loss_terms, narrowed, needs_of, needs_of_a_step
from distil_nlp.training.weighting import Weighting


class DistillationTrainer(BatchTrainer):
    r"""Trains a student under a sum of objectives.

    .. math:: L = \sum_o \frac{w_o}{n_o} \sum_{i=1}^{n_o} \ell_o(i)

    where :math:`n_o` counts the objective's items (examples, tokens that are not padding, ...) over all micro-batches
    and processes of an optimizer step, so that accumulation and data parallelism are exact. Each term is logged
    under its objective's name, weighted as it enters the sum; the logged terms add up to the logged loss.

    An evaluation gives the same sum over all its rows as one step, and each term without its weight
    (``eval_logits_kl``), whatever a weighting makes of them in training.

    Takes what :class:`transformers.Trainer` takes, and:

    Args:
        model: The student: a transformers model, or one with adapters of PEFT.
        args: As for :class:`transformers.Trainer`.
        teacher: A transformers model, a :class:`~distil_nlp.teachers.Teacher`, or a list of either, whose mean
            predictions are taught (:class:`~distil_nlp.teachers.EnsembleTeacher`); None trains without one.
        objectives: The terms of the loss; ``[TaskLoss()]``, fine-tuning, if there is no teacher and none is given.
        weighting: Adapts how much each term counts (:class:`~distil_nlp.training.Weighting`), if given.
        eval_collator: Makes the batches of evaluation, where those of training are random.
        **kwargs: As for :class:`transformers.Trainer`.

    Raises:
        DistilError: for objectives that do not suit the two models, before anything is trained.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        *,
        teacher: PreTrainedModel | Teacher | Sequence[PreTrainedModel | Teacher] | None = None,
        objectives: Sequence[Objective] | None = None,
        weighting: Weighting | None = None,
        eval_collator: Any = None,
        **kwargs: Any,
    ) -> None:
        check_models(model, teacher, kwargs.get("model_init"))
        check_kind_of(args)
        config: Any = getattr(model, "config", None)
        cached = getattr(config, "use_cache", None)
        super().__init__(model, args, **kwargs)
        if cached is not None:  # transformers has set it to what training needs, and would save it so
            config.use_cache = cached
        self.eval_collator = eval_collator
        self.teacher = None if teacher is None else as_teacher(teacher)
        fit_teachers(self.teacher, self.processing_class or getattr(self.data_collator, "tokenizer", None))
        check_arguments(self.args, self)
        self.objectives = nn.ModuleList(
            checked_objectives(objectives, self.teacher, label_smoothing=self.args.label_smoothing_factor)
        )
        # What `loss_is_scaled_for_ga` says, for earlier transformers 5, where two places divide by the micro-batches.
        self.model_accepts_loss_kwargs = True
        self.accelerator.gradient_accumulation_steps = 1
        self.can_return_loss = True  # evaluates it for a model without labels, too
        inside = inner_model(self.model)  # type: ignore[arg-type]
        make_savable(inside)
        train_ends(inside)
        shape = describe(inside)
        with torch.random.fork_rng(devices=[]):  # what the student draws does not depend on projections
            for objective in self._objectives():
                objective.bind(shape, self.teacher.shape if self.teacher else None)
        self.weighting = weighting
        if weighting is not None:
            weighting.bind(list(self._objectives()), shape)
        # All that has a state beside the student's: the objectives, and after them the weighting.
        self._added = nn.ModuleList([*self.objectives, *([] if weighting is None else [weighting])])
        self._added.to(self.args.device)
        if self.args.world_size > 1:  # each process made its own at random
            for tensor in [*self._added.parameters(), *self._added.buffers()]:
                tensor.data.copy_(broadcast(tensor.detach().contiguous()))
        student_needs, teacher_needs = needs_of(list(self._objectives()))
        self.needs = {
            True: needs_of_a_step(list(self._objectives()), inside, weighting),
            False: (student_needs | Needs(logits=True), teacher_needs),  # metrics read logits
        }
        seen = student_needs | self.needs[True][0]  # with what a weighting looks at
        check_inside(self.model, shape.item, seen)
        check_labels(inside, shape, self.teacher, list(self._objectives()))
        if student_needs.attentions:
            prepare_attention(inside, "student")
        if self.teacher:
            self.teacher.prepare(teacher_needs | self.needs[True][1], self.args.device)
        self.term_names = [objective.name for objective in self._objectives()]
        if weighting is not None and weighting.own_term is not None:
            self.term_names.append(weighting.own_term)
        self._terms = torch.zeros(len(self.term_names), device=self.args.device)
        self._steps = 0  # optimizer steps that are in _terms
        self._micro_batches = 1
        self.add_callback(EpochCallback())

    # ---- loss ----

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | None]:
        """Collects an optimizer step's micro-batches and counts each objective's items in all of them.

        Data-parallel training averages gradients over processes, so each process divides by its share.
        """
        if self.accelerator.sync_gradients:  # the step before is complete
            self._added.zero_grad()  # transformers clears the student's gradients only
        batches, counts = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._micro_batches = len(batches)
        if isinstance(counts, Tensor):
            counts = self._mean(counts)
        return batches, counts  # type: ignore[return-value]

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | None:
        """Items by objective, ``[objectives]``, in this process."""
        if not batch_samples:
            return None
        counts = [torch.stack([o.count(batch) for o in self._objectives()]) for batch in batch_samples]
        return torch.stack(counts).sum(0).to(device, torch.float32)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The sum of the objectives' terms."""
        self._added.train(model.training)
        if self.weighting is not None and model.training:
            self.weighting.apply_balances()  # which waits for the device, so before it has work
        else:  # what is evaluated is measured by one yardstick
            for objective in self._objectives():
                objective.balance = 1.0
        inputs = {name: value for name, value in inputs.items() if name != "skip_logits"}  # asked of Liger's models
        used, student_needs, teacher_needs = self._in_use(model.training and not return_outputs)
        headless = self.args.world_size > 1 and not student_needs.head
        asks = any(objective.uses_teacher for objective in used)
        teacher = self.teacher(inputs, teacher_needs) if self.teacher and asks else Signals()
        student = capture(model, inputs, student_needs | Needs(logits=headless))
        objectives = list(self._objectives())
        counts = num_items_in_batch
        if counts is None:
            counts = torch.stack([objective.count(inputs) for objective in objectives])
        loss, terms = loss_terms(objectives, used, student, teacher, inputs, counts)
        if self.evaluated is not None and not model.training:
            self.evaluated.add(terms, counts)
        if self.weighting is not None and model.training:
            share = 1.0 if num_items_in_batch is None else 1 / self._micro_batches
            own = self.weighting(terms, student, share)
            loss, terms = (loss, terms) if own is None else (loss + own, [*terms, own])
        if headless and student.output is not None:  # DDP waits for the gradient of all that made an output
            outputs = [value for value in student.output.values() if isinstance(value, Tensor) and value.requires_grad]
            loss = loss + 0.0 * sum(value.sum() for value in outputs)
        if model.training:
            self._record(terms, loss)
        return (loss, student.output) if return_outputs else loss

    def _in_use(self, of_a_step: bool) -> tuple[Sequence[Objective], Needs, Needs]:
        """The objectives that count at present, and what is asked of student and teacher for them."""
        objectives, (student, teacher) = list(self._objectives()), self.needs[of_a_step]
        if self.weighting is not None:  # looks at all terms
            return objectives, student, teacher
        used = in_use(objectives)
        ours, theirs = needs_of(used)
        return used, narrowed(student, ours | Needs(logits=not of_a_step)), narrowed(teacher, theirs)

    def _record(self, terms: list[Tensor], loss: Tensor) -> None:
        values = torch.stack([term.detach() for term in terms])
        self._terms += values.to(self._terms)
        if loss.device.type == "cpu" and not torch.isfinite(loss):
            self._refuse_non_finite(values.tolist())

    def _forget_terms(self) -> None:
        self._terms.zero_()
        self._steps = 0

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, which comes back to it with smaller batches if auto_find_batch_size is set."""
        check_scheduled(self.callback_handler.callbacks, self._objectives())
        self._forget_terms()
        forget_step(self._added)
        return super()._inner_training_loop(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of each term since the last log beside the loss."""
        if "loss" in logs:
            means = [term / max(self._steps, 1) for term in self._mean(self._terms).tolist()]
            self._refuse_non_finite(means)
            logs.update(zip(self.term_names, means, strict=True))
            logs.update(scheduled_values(self.callback_handler.callbacks))
            logs.update(self.weighting.logs() if self.weighting is not None else {})
            self._forget_terms()
        super().log(logs, start_time)

    # ---- optimisation: trainable projections go along with the student ----

    def _trained(self) -> nn.ModuleList:
        return nn.ModuleList([self.model, self.objectives])  # type: ignore[list-item]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """An optimizer over the student's and the objectives' parameters."""
        optimizer = super().create_optimizer(self._trained())
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if any(each.requires_grad and id(each) not in held for each in self.objectives.parameters()):
            raise ModelError(
                "The optimizer given must train the projections of the objectives, too.",
                "It holds the student's parameters only.",
                "Leave `optimizers` out, or add [p for o in objectives for p in o.parameters()] after construction.",
            )
        if self.weighting is not None:
            self.weighting.add_parameters(optimizer, self.lr_scheduler)
        return optimizer

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """A micro-batch; the last of a step also ends it for the objectives, in all processes alike."""
        loss: Tensor = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:
            self._steps += 1
            for parameter in self._added.parameters():
                if parameter.grad is not None:
                    parameter.grad = self._mean(parameter.grad)
            for objective in self._objectives():
                objective.end_step(self._mean)
            if self.weighting is not None:
                self.weighting.end_step(self._mean)
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        return super()._clip_grad_norm(self._trained())

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        return super()._get_grad_norm(self._trained(), grad_norm=grad_norm)

    # ---- checkpoints ----

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; ``resume_from_checkpoint=True`` takes the newest whole checkpoint, if there is one."""
        try:
            return super().train(*args, **kwargs)
        finally:
            if flush := getattr(self.teacher, "flush", None):
                flush()  # what a teacher has stored in memory so far

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._refuse_non_finite(self._terms.tolist())  # never a checkpoint of what is lost
        super()._save_checkpoint(model, trial)

    def _refuse_non_finite(self, means: list[float]) -> None:
        refuse_non_finite(dict(zip(self.term_names, means, strict=True)), step=self.state.global_step + 1)
