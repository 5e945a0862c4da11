"""What predicting hidden tokens and predicting next tokens have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray

from distil_nlp.data.batches import Lists
from distil_nlp.data.tasks.base import IGNORED, Array, Task

_LOGITS = 2**22  # of which a copy is held at a time: 16 MiB


class LanguageModeling(Task):
    """Tokens of texts are predicted; the checkpoint's own head is kept.

    Of a batch's logits ``[batch, tokens, vocab]`` two figures a predicted token are kept, never the logits.

    Attributes:
        shift: How many tokens ahead of its position a prediction is.
    """

    predicts = "likelihood"
    shift: ClassVar[int] = 0

    @abstractmethod
    def targets(self, rows: Dataset) -> list[Array]:
        """Token ids like those that tokenized rows have predicted, by row."""

    def keep(self, output: Mapping[str, Array], batch: Mapping[str, Array]) -> list[Array]:
        """Of each predicted token its negative log-likelihood, and 1 if it is the first choice: ``[items, 2]``."""
        logits, labels = output["logits"], np.asarray(batch["labels"])
        predicting = logits[:, : logits.shape[1] - self.shift]  # position t predicts token t + shift
        pairs = zip(predicting, labels[:, self.shift :], strict=True)
        return [_figures(row, wanted) for row, wanted in pairs]

    def predictions(self, outputs: Lists, rows: Dataset, examples: Dataset) -> NDArray[np.float64]:
        """The sums of a row's figures, ``[rows, 2]``."""
        return np.array([figures.sum(axis=0, dtype=np.float64) for figures in outputs.by_row()])

    def weakness(self, outputs: Lists, rows: Dataset) -> str | None:
        """It knows no more of tokens than how common each is."""
        if not len(outputs.values):
            return "The validation rows have no token to predict."
        _, counts = np.unique(np.concatenate(self.targets(rows)), return_counts=True)
        shares = counts / counts.sum()
        cost, right = outputs.values.mean(axis=0, dtype=np.float64)
        if right > shares.max() or cost < -(shares * np.log(shares)).sum():
            return None
        where = f"Of {len(outputs.values)} tokens of validation rows"
        better = f"always giving the commonest token would be right in {shares.max():.3f}"
        return f"{where} its first choice is right in {right:.3f} (perplexity {np.exp(cost):.4g}); {better}."


def _figures(logits: Array, labels: Array) -> Array:
    """Negative log-likelihood and whether the first choice is right, ``[items, 2]``, of labels that count.

    Args:
        logits: ``[tokens, vocab]``.
        labels: ``[tokens]``.
    """
    counted = np.flatnonzero(labels != IGNORED)
    figures = np.empty((len(counted), 2), dtype=np.float32)
    step = max(1, _LOGITS // logits.shape[-1])
    for start in range(0, len(counted), step):
        chosen = counted[start : start + step]
        scores = torch.from_numpy(logits[chosen]).float()  # [items, vocab]
        right = torch.from_numpy(labels[chosen]).long()  # [items]
        cost = torch.logsumexp(scores, dim=-1) - scores.gather(-1, right[:, None]).squeeze(-1)
        hit = scores.argmax(dim=-1) == right
        figures[start : start + step] = torch.stack([cost, hit.float()], dim=-1).numpy()
    return figures
