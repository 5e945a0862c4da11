"""`transformers.Trainer` with checkpoints that are whole or not used at all, and hold more than the model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from distil_nlp.errors import TrainingError, listed
from distil_nlp.training.checkpoint import newest_checkpoint, seal, verify

logger = logging.getLogger(__name__)

OBJECTIVES_FILE = "objectives.safetensors"


class SealedTrainer(Trainer):
    """Seals its checkpoints, goes on from sealed ones only, and keeps in them what has a state beside the model."""

    _added: nn.Module  # all that has

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; ``True`` resumes from the newest whole checkpoint, if there is one.

        Raises:
            TrainingError: The checkpoint is damaged, or of other objectives.
        """
        if resume_from_checkpoint is True:
            folder = Path(self.args.output_dir or ".")
            newest = newest_checkpoint(folder)
            if newest is None and (unsealed := sorted(path.name for path in folder.glob("checkpoint-*"))):
                logger.warning(f"None of {listed(unsealed, 3)} in {folder} is whole: training starts anew.")
            resume_from_checkpoint = str(newest) if newest else None
        elif resume_from_checkpoint:
            verify(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Saves, seals, and only then deletes older checkpoints."""
        run_dir = self._get_output_dir(trial=trial)
        folder = Path(run_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        state = self._added.state_dict()
        if state and self.args.should_save:  # with save_only_model, too: what was evaluated can be loaded again
            folder.mkdir(parents=True, exist_ok=True)
            save_file(state, str(folder / OBJECTIVES_FILE))
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            seal(folder)
            rotate_checkpoints(
                output_dir=run_dir,
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Seals what is pushed, so that training can go on from it."""
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            seal(Path(checkpoint_folder))
        super()._push_from_checkpoint(checkpoint_folder)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint:
            self._load_added(checkpoint)
        super()._load_optimizer_and_scheduler(checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_added(str(self.state.best_model_checkpoint))

    def _load_added(self, checkpoint: str) -> None:
        path = Path(checkpoint) / OBJECTIVES_FILE
        found = load_file(str(path)) if path.is_file() else {}
        ours, theirs = (
            {(name, *tensor.shape) for name, tensor in state.items()} for state in (self._added.state_dict(), found)
        )
        if ours != theirs:
            raise TrainingError(
                f"Training was to go on from {checkpoint}, with objectives and weighting as they were there.",
                f"It lacks {_named(ours - theirs)} of these, and has {_named(theirs - ours)} of others.",
                "Give the objectives and the weighting that it was made with, or start anew from its model.",
            )
        self._added.load_state_dict(found)


def _named(shapes: set[tuple[Any, ...]]) -> str:
    return listed([f"{name} {list(shape)}" for name, *shape in sorted(shapes)], 3)
