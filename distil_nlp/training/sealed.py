"""`transformers.Trainer` with checkpoints that are whole or not used at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from distil_nlp.training.checkpoint import newest_checkpoint, seal, verify


class SealedTrainer(Trainer):
    """Seals its checkpoints, and goes on from sealed ones only."""

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; ``True`` resumes from the newest whole checkpoint, if there is one.

        Raises:
            TrainingError: The checkpoint is damaged.
        """
        if resume_from_checkpoint is True:
            newest = newest_checkpoint(Path(self.args.output_dir or "."))
            resume_from_checkpoint = str(newest) if newest else None
        elif isinstance(resume_from_checkpoint, str):
            verify(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Saves, seals, and only then deletes older checkpoints."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        run_dir = self._get_output_dir(trial=trial)
        if self.args.should_save:
            seal(Path(run_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
            rotate_checkpoints(
                output_dir=run_dir,
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
