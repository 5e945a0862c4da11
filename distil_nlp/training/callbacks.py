"""What changes while a student is trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from distil_nlp.errors import RecipeError
from distil_nlp.objectives import Objective
from distil_nlp.training.schedules import Schedule

SCHEDULABLE = ("weight", "temperature")


class ScheduleCallback(TrainerCallback):
    """Lets a weight or a temperature of an objective follow a schedule.

    The value is set when training and each of its steps begins. It depends on ``global_step / max_steps`` alone: it is
    the same in all processes and micro-batches, and after resuming. It is logged as ``logits_kl/weight``.

    ```python
    kl = LogitsKL(temperature=4.0)
    trainer = DistillationTrainer(..., objectives=[TaskLoss(), kl],
                                  callbacks=[ScheduleCallback(kl, "weight", Linear(1.0, 0.2))])
    ```

    Args:
        objective: The objective, which the trainer must be given, too.
        attribute: ``"weight"``, or a temperature of the objective.
        schedule: The value as a function of progress.

    Raises:
        RecipeError: if the objective has no such attribute, or the schedule takes values that it must not have.
    """

    def __init__(self, objective: Objective, attribute: str, schedule: Schedule) -> None:
        _check(objective, attribute, schedule)
        self.objective, self.attribute, self.schedule = objective, attribute, schedule

    @property
    def name(self) -> str:
        """What the value is logged as."""
        return f"{self.objective.name}/{self.attribute}"

    @property
    def value(self) -> float:
        """The present value."""
        return float(getattr(self.objective, self.attribute))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.on_step_begin(args, state, control)  # what is evaluated before the first step follows it, too

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        setattr(self.objective, self.attribute, self.schedule(state.global_step / max(state.max_steps, 1)))


class EpochCallback(TrainerCallback):
    """Says which epoch begins to whatever orders the rows.

    transformers does, too; but of an epoch that is resumed in its middle by several processes, accelerate does not pass
    it on, and the first epoch's order would come again.
    """

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        set_epoch = getattr(kwargs.get("train_dataloader"), "set_epoch", None)
        if set_epoch is not None:
            set_epoch(int(state.epoch or 0))


def scheduled_values(callbacks: Iterable[TrainerCallback]) -> dict[str, float]:
    """The present values of all that follows a schedule, by name."""
    return {callback.name: callback.value for callback in callbacks if isinstance(callback, ScheduleCallback)}


def check_scheduled(callbacks: Iterable[TrainerCallback], objectives: Iterable[Objective]) -> None:
    """Refuses a schedule of an objective that is not trained under.

    Raises:
        RecipeError: naming it.
    """
    trained = set(map(id, objectives))
    for callback in callbacks:
        if isinstance(callback, ScheduleCallback) and id(callback.objective) not in trained:
            raise RecipeError(
                f"{callback.name} was to follow {callback.schedule}.",
                "The trainer has not been given that objective, but another one or none.",
                "Make it once (kl = LogitsKL()), and give it to both: objectives=[kl], ScheduleCallback(kl, ...).",
            )


def _check(objective: Objective, attribute: str, schedule: Schedule) -> None:
    asked = f"{objective.name}.{attribute} was to follow {schedule}."
    known = [name for name, value in vars(objective).items() if name.endswith(SCHEDULABLE) and _is_number(value)]
    if attribute not in known:
        raise RecipeError(
            asked, "Weights and temperatures can follow a schedule.", f"Of this objective: {', '.join(known)}."
        )
    lowest = min(schedule.extremes)
    if lowest < 0:
        raise RecipeError(asked, f"It would go down to {lowest}.", "Neither weights nor temperatures are negative.")
    if lowest == 0 and attribute.endswith("temperature"):
        raise RecipeError(asked, "It would be 0 at some point.", "A temperature is above 0.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
