"""`transformers.Trainer` with batches of all that a student, its teacher and the objectives read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from accelerate.utils import slice_tensors
from torch import Tensor, nn

from distil_nlp.objectives import Objective
from distil_nlp.teachers import Teacher
from distil_nlp.training.evaluated import EvaluatedTerms, own_rows
from distil_nlp.training.groups import loader_by_group
from distil_nlp.training.sampler import seeded
from distil_nlp.training.sealed import SealedTrainer


class BatchTrainer(SealedTrainer):
    """Keeps the columns that are read, evaluates on batches of their own collator, and without labels."""

    teacher: Teacher | None
    eval_collator: Any
    objectives: nn.ModuleList
    evaluated: EvaluatedTerms | None = None  # while an evaluation is going on

    def _objectives(self) -> Iterator[Objective]:
        for objective in self.objectives:
            if isinstance(objective, Objective):
                yield objective

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        """Length-grouped batches come in an order that seed and epoch decide."""
        return seeded(super()._get_train_sampler(*args, **kwargs), self.args)

    def get_train_dataloader(self) -> Any:
        """Batches of whole groups, where rows say of which they are and somebody reads it."""
        loader = loader_by_group(self)
        return super().get_train_dataloader() if loader is None else loader

    def _set_signature_columns_if_needed(self) -> None:
        """Keeps the columns that teacher and objectives read, too, and those that the collator says it does."""
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            readers = [self.data_collator, self.eval_collator, *self._objectives()]
            read = [*(self.teacher.input_names if self.teacher else ())]
            read += [column for reader in readers for column in getattr(reader, "columns", ())]
            self._signature_columns = list(dict.fromkeys([*(self._signature_columns or ()), *read]))  # type: ignore[assignment]

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """Batches of evaluation and prediction as ``eval_collator`` makes them, where there is one."""
        self._set_signature_columns_if_needed()  # what either collator reads
        training = self.data_collator
        if not kwargs.get("is_training"):
            self.data_collator = self.eval_collator or training
        try:
            return super()._get_dataloader(*args, **kwargs)
        finally:
            self.data_collator = training

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """As in transformers; but the loss is that of all batches as one step, and each term is beside it."""
        terms = self.evaluated = EvaluatedTerms(list(self._objectives()))
        try:
            output: Any = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix=metric_key_prefix
            )
        finally:
            self.evaluated = None
        if output.metrics.pop(f"{metric_key_prefix}_loss", None) is not None:
            found = terms.metrics(self._mean)
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        return output

    def _mean(self, tensor: Tensor) -> Tensor:
        """The mean over processes."""
        return self.accelerator.reduce(tensor, "mean") if self.args.world_size > 1 else tensor

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Any:
        """As in transformers; the loss does not need labels, where all objectives follow the teacher.

        Of a batch that was filled up with rows of others, it is the loss of its own.
        """
        names, labelled = self.label_names, any(inputs.get(name) is not None for name in self.label_names)
        if prediction_loss_only and not labelled and all(each.uses_teacher for each in self._objectives()):
            self.label_names = []
        evaluated, own = self.evaluated, own_rows(inputs, self.accelerator)
        try:
            self.evaluated = evaluated if own is None else None
            step = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
            if own is not None:
                self.evaluated = evaluated if own else None  # a sharded model runs in all processes or in none
                super().prediction_step(model, slice_tensors(inputs, slice(max(own, 1))), True, ignore_keys)
            return step
        finally:
            self.label_names, self.evaluated = names, evaluated
