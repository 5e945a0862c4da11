"""An embedding for each text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset, Value
from numpy.typing import NDArray
from transformers import AutoModel, DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from distil_nlp.data.batches import Lists, map_texts
from distil_nlp.data.collate import OnlyColumns
from distil_nlp.data.embedding import Embedding, embedding_files, read_embedding
from distil_nlp.data.label_lists import numbers
from distil_nlp.data.read import RawData
from distil_nlp.data.split import SPLITS
from distil_nlp.data.tasks.base import TASKS, Array, Task
from distil_nlp.data.texts import text_column
from distil_nlp.errors import ModelError
from distil_nlp.functional.pooling import pool
from distil_nlp.functional.similarity import unit


@TASKS.register("feature-extraction")
class FeatureExtraction(Task):
    """The teacher's embedding of each text; a row with two texts becomes two.

    With ``score``, the cosine of a row's two embeddings is compared with it; without, embeddings with the teacher's.
    """

    auto_class = AutoModel
    keys = ("text", "text_pair", "score")
    default_objectives: ClassVar[Mapping[str, Mapping[str, Any]]] = {"sentence_embeddings": {}}

    @property
    def scored_by_teacher(self) -> bool:  # type: ignore[override]
        """Where there is no ``score``."""
        return self.settings.score is None

    @property
    def metrics(self) -> tuple[str, ...]:  # type: ignore[override]
        """Of embeddings, or of how alike two texts are."""
        return ("cosine_to_teacher",) if self.scored_by_teacher else ("spearman", "pearson")

    @property
    def predicts(self) -> str:  # type: ignore[override]
        """Embeddings, or the cosine of two."""
        return "vector" if self.scored_by_teacher else "number"

    @cached_property
    def embedding(self) -> Embedding:
        """How embeddings are made: as the recipe says, else the teacher's folder, else the mean of all tokens.

        Raises:
            ModelError: The folder says it in a way that is not supported.
        """
        pooling, normalize = self.settings.pooling, self.settings.normalize
        if pooling is not None and normalize is not None:
            return Embedding(pooling, normalize)
        found = read_embedding(self.read_json) or Embedding()
        return Embedding(
            found.pooling if pooling is None else pooling, found.normalize if normalize is None else normalize
        )

    # ---- rows ----

    def clean(self, raw: RawData, dropped: Counter[str]) -> dict[str, Dataset]:
        """Rows with ``text``, ``text_pair`` and ``score``; of those to train on, any text is enough."""
        given = len(raw.splits) == len(SPLITS)  # else test rows are taken from those of train
        return {
            name: self._clean(rows, dropped, scored=not self.scored_by_teacher and not (given and name == "train"))
            for name, rows in raw.splits.items()
        }

    def _clean(self, rows: Dataset, dropped: Counter[str], *, scored: bool) -> Dataset:
        columns = [text_column(rows, key, self.settings) for key in ("text", "text_pair") if key in self.columns]
        scores = (
            [None] * len(rows)
            if self.scored_by_teacher
            else numbers(rows, self.settings.score, fix="Name another column as `score`.")
        )
        kept = []
        for row, (score, *texts) in enumerate(zip(scores, *columns, strict=True)):
            if not (all if scored else any)(texts):
                dropped["empty text"] += 1
            elif scored and score is None:
                dropped["no score"] += 1
            else:
                kept.append(row)
        if not self.scored_by_teacher:
            rows = rows.remove_columns(self.settings.score).add_column("score", scores, feature=Value("float64"))
        names = {column: key for key, column in self.columns.items() if key != "score"}
        return rows.rename_columns(names).select(kept)

    def texts(self, rows: Dataset) -> list[tuple[str, ...]]:
        """The text, and its pair."""
        columns = [rows[name][:] for name in ("text", "text_pair") if name in rows.column_names]
        return [tuple(text or "" for text in texts) for texts in zip(*columns, strict=True)]

    # ---- the model ----

    def objective_arguments(self) -> dict[str, Any]:
        """``pooling`` and ``normalize``."""
        return self.embedding._asdict()

    def check_student(self, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
        """Refuses a student of another width, unless rows say how alike texts are."""
        widths = [model.config.get_text_config().hidden_size for model in (student, teacher)]
        if self.scored_by_teacher and widths[0] != widths[1]:
            raise ModelError(
                "The student's embeddings are scored by their cosine with the teacher's.",
                f"The student's are {widths[0]} wide, the teacher's {widths[1]}.",
                "Use a student as wide as its teacher, or rows with `text_pair` and `score`.",
            )

    def companions(self, model: PreTrainedModel) -> dict[str, Any]:
        """What ``sentence-transformers`` loads the checkpoint by."""
        width = model.config.get_text_config().hidden_size
        return embedding_files(self.embedding, width=width, max_length=self.settings.max_length)

    def tokenize(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """``input_ids``, ``attention_mask`` and the like for each text, cut at ``max_length``, and its ``example``."""
        return map_texts(rows, _encode, with_indices=True, tokenizer=tokenizer, max_length=self.settings.max_length)

    def collator(self, tokenizer: PreTrainedTokenizerBase, *, train: bool = True) -> Any:
        """Pads each batch to its longest row."""
        return OnlyColumns(DataCollatorWithPadding(tokenizer), tokenizer.model_input_names)

    # ---- scores ----

    def keep(self, output: Mapping[str, Array], batch: Mapping[str, Array]) -> list[Array]:
        """The embedding of each text, ``[1, width]``."""
        states = torch.from_numpy(output["last_hidden_state"])  # [batch, tokens, width]
        vectors = pool(states, torch.from_numpy(batch["attention_mask"]).bool(), self.embedding.pooling)
        return list((unit(vectors) if self.embedding.normalize else vectors).unsqueeze(1).numpy())

    def predictions(self, outputs: Lists, rows: Dataset, examples: Dataset) -> NDArray[Any]:
        """Embeddings, ``[rows, width]``; with ``score``, the cosine of each example's two, ``[examples]``."""
        if self.scored_by_teacher:
            return outputs.values
        vectors = torch.from_numpy(outputs.values).double().unflatten(0, (-1, 2))  # [examples, 2, width]
        return torch.cosine_similarity(vectors[:, 0], vectors[:, 1]).numpy()

    def references(self, rows: Dataset, examples: Dataset) -> NDArray[np.float64]:
        """The scores."""
        return np.asarray(examples["score"][:], dtype=np.float64)

    def weakness(self, outputs: Lists, rows: Dataset) -> str | None:
        """Every text has the same embedding."""
        first, rest = outputs.values[:1], outputs.values[1:]
        if not np.isfinite(outputs.values).all():
            return f"Its embeddings of {len(rows)} validation texts are not all numbers."
        if len(rest) and np.allclose(rest, first, rtol=1e-4, atol=1e-4 * np.abs(first).max()):
            return f"It gives {len(rows)} validation texts the same embedding."
        return None


def _encode(
    batch: dict[str, list[Any]], indices: list[int], tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> dict[str, Any]:
    columns = [batch[key] for key in ("text", "text_pair") if key in batch]
    texts = [
        (row, text) for row, *found in zip(indices, *columns, strict=True) for text in found if text and text.strip()
    ]
    encoded = tokenizer([text for _, text in texts], truncation=True, max_length=max_length)
    return {**encoded, "example": [row for row, _ in texts]}
