"""One training of a run: from its newest checkpoint to a saved model."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from distil_nlp.build import Assembly
from distil_nlp.evaluation.efficiency import size_mb
from distil_nlp.objectives import TaskLoss
from distil_nlp.run import Run


def train(
    run: Run, name: str, model: PreTrainedModel, parts: Assembly, *, arguments: dict[str, Any], **trainer: Any
) -> dict[str, Any]:
    """Trains a model from its newest checkpoint, if there is one, and saves it.

    Args:
        run: The run.
        name: The model's name in it.
        model: The model.
        parts: The recipe's parts, in the model's vocabulary.
        arguments: Of training, as the recipe has them.
        **trainer: What else :meth:`~distil_nlp.build.Assembly.trainer` takes.

    Returns:
        What the run keeps of it.
    """
    checkpoints = run.folder.checkpoints / name
    if trainer.get("objectives") is None:
        trainer["objectives"] = [TaskLoss()]
    training = parts.trainer(model, arguments=arguments, output_dir=checkpoints, **trainer)
    training.train(resume_from_checkpoint=True)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    run.save_model(name, model, parts)
    return {
        "parameters": trained,
        "size_mb": size_mb(run.folder.model(name)),
        "steps": training.state.global_step,
        "terms": training.term_names,
        "log_history": training.state.log_history,
    }
