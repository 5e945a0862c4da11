"""What a task is: the model class, the columns, tokenization, batches, and what a prediction is."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distil_nlp.data.align import align_labels
from distil_nlp.data.batches import Lists
from distil_nlp.data.read import RawData
from distil_nlp.data.split import SPLITS
from distil_nlp.data.texts import text_column
from distil_nlp.registry import Registry
from distil_nlp.signals import IGNORED as IGNORED  # the label that does not count

logger = logging.getLogger(__name__)
Array = NDArray[Any]
Forward = Callable[[Mapping[str, Array]], Mapping[str, Any]]


class Predictor(Protocol):
    """A model on whatever runs it: from a padded batch to its outputs by name, or to texts."""

    def __call__(self, batch: Mapping[str, Array]) -> Mapping[str, Array]:
        """The outputs of its forward pass; of an encoder-decoder, while the decoder reads the batch's labels."""

    def writer(self, *, num_beams: int, max_new_tokens: int) -> Callable[[Mapping[str, Array]], list[list[int]]]:
        """What writes a text for each row (:func:`~distil_nlp.data.writing.writer`)."""


class Task(ABC):
    """One kind of task, under the settings of a recipe.

    Rows go through :meth:`clean` (the task's own columns), :meth:`tokenize` and :meth:`collator` to a model, and its
    outputs through :meth:`keep` and :meth:`predictions` to the metrics.

    Args:
        settings: The ``task`` section of a recipe.
        read_json: Reads a JSON file that lies beside the teacher's weights; None where there is none.

    Attributes:
        auto_class: The ``transformers`` class whose ``from_pretrained`` makes teacher and student.
        keys: Those of the recipe that name columns of the source.
        metrics: The metrics to use when a recipe names none, the headline first.
        predicts: What predictions are, as metrics have it (:data:`~distil_nlp.evaluation.metrics.TAKES`).
        by_row: Whether a row has one prediction, so that the metrics can follow while transformers evaluates.
        scored_by_teacher: Whether rows do not say what is right: it is then what the teacher predicts.
        default_objectives: The terms of the loss, by name, when a recipe lists none.
    """

    auto_class: ClassVar[Any]
    keys: ClassVar[tuple[str, ...]]
    by_row: ClassVar[bool] = False
    metrics: tuple[str, ...]
    predicts: str
    scored_by_teacher: bool = False
    default_objectives: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "task_loss": {"weight": 0.5},
        "logits_kl": {"weight": 0.5, "temperature": 2.0},
    }

    def __init__(self, settings: Any, read_json: Callable[[str], Any] = lambda name: None) -> None:
        self.settings, self.read_json = settings, read_json

    # ---- rows ----

    @property
    def columns(self) -> dict[str, str]:
        """The source's column for each of :attr:`keys` that names one."""
        return {key: column for key in self.keys if (column := getattr(self.settings, key)) is not None}

    def clean(self, raw: RawData, dropped: Counter[str]) -> dict[str, Dataset]:
        """Keeps the rows that can be learned from, under the task's own column names, by split.

        Args:
            raw: Rows as found; splits may be taken out.
            dropped: Counts the rows left out, by reason.

        Raises:
            DataError: for columns that do not hold what they should.
        """
        self.leave_out_secret(raw)
        return {name: self.clean_rows(rows, dropped) for name, rows in raw.splits.items()}

    def leave_out_secret(self, raw: RawData) -> None:
        """Takes out validation and test splits of which no row says what is right: some sets keep it to themselves."""
        for name in [name for name in SPLITS[1:] if name in raw.splits]:
            if len(raw.splits[name]) and self.says_nothing(raw.splits[name], raw):
                logger.warning("The %s rows do not say what is right and are left out.", name)
                del raw.splits[name]

    def says_nothing(self, rows: Dataset, raw: RawData) -> bool:
        """Whether no row of a split, as found, says what is right, where rows are to say it."""
        return False

    def clean_rows(self, rows: Dataset, dropped: Counter[str]) -> Dataset:
        """What :meth:`clean` makes of one split, where others have no say in it: here :meth:`clean_texts`."""
        return self.clean_texts(rows, dropped)

    @property
    def text_columns(self) -> dict[str, str]:
        """Those of :attr:`columns` that hold texts, where rows may come without labels."""
        return {key: column for key, column in self.columns.items() if key in self.settings.text_keys}

    def clean_texts(self, rows: Dataset, dropped: Counter[str]) -> Dataset:
        """Keeps the rows with texts, under the task's own column names; labels they have none.

        Args:
            rows: As found, with :attr:`text_columns`.
            dropped: Counts the rows left out, by reason.

        Raises:
            DataError: for columns that do not hold texts.
        """
        texts = zip(*(text_column(rows, key, self.settings) for key in self.text_columns), strict=True)
        kept = [row for row, found in enumerate(texts) if all(found)]
        dropped["empty text"] += len(rows) - len(kept)
        return rows.rename_columns({column: key for key, column in self.text_columns.items()}).select(kept)

    @abstractmethod
    def texts(self, rows: Dataset) -> list[tuple[str, ...]]:
        """The texts that make each clean row what it is: equal ones never end up in two splits."""

    def kept_together(self, rows: Dataset) -> list[tuple[str, ...]]:
        """What keeps clean rows in one split, where equal, if the data has no splits of its own: here their texts."""
        return self.texts(rows)

    def label_names(self, rows: Dataset) -> list[str] | None:
        """The names of the label ids of clean rows; None for a task without classes."""
        return None

    def seen_labels(self, rows: Dataset) -> set[int]:
        """The label ids that clean rows have."""
        return set()

    def majority(self, rows: Dataset) -> tuple[str, float] | None:
        """The commonest label of clean rows and the accuracy of always answering it, where that means something."""
        return None

    # ---- the model ----

    @property
    def lengths(self) -> dict[str, int]:
        """How many tokens a model must have positions for, by the key of the recipe that says so."""
        return {"max_length": self.settings.max_length}

    def model_kwargs(self, label_names: list[str] | None) -> dict[str, Any]:
        """What ``from_pretrained`` must be told of the labels; nothing where the checkpoint's own head is kept."""
        if label_names is None:
            return {}
        return {
            "num_labels": len(label_names),
            "id2label": dict(enumerate(label_names)),
            "label2id": {name: index for index, name in enumerate(label_names)},
        }

    def objective_arguments(self) -> dict[str, Any]:
        """What the task says in the place of a recipe that leaves it out, for objectives with such a parameter."""
        return {}

    def fit_teacher(self, teacher: PreTrainedModel, label_names: list[str] | None) -> None:
        """Makes a teacher that is fine-tuned already one of this task.

        Raises:
            ModelError: with what does not fit.
        """
        if label_names:
            align_labels(teacher.config, label_names, classes=False)

    def check_student(self, student: PreTrainedModel, teacher: PreTrainedModel) -> None:  # noqa: B027 - most need not
        """Refuses a student that could not be scored.

        Raises:
            ModelError: with what does not fit.
        """

    def companions(self, model: PreTrainedModel) -> dict[str, Any]:
        """JSON files, by path, that a checkpoint of the task has beside those of transformers."""
        return {}

    def export_task(self, *, cache: bool) -> str:
        """The task by the exporter's name; of a decoder, for a graph with or without a cache of keys and values."""
        return f"{self.settings.name}{'-with-past' if cache and self.settings.decoding else ''}"

    def corpus(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Iterable[str | list[str]]:
        """What :meth:`tokenize` cuts into tokens of clean rows, uncut: texts, or lists of words."""
        return [text for texts in self.texts(rows) for text in texts if text]

    @abstractmethod
    def tokenize(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """Clean rows as the model takes them, in the same order; the result is cached on disk.

        Labels that rows lack, or that are None, get the value of one that is not known
        (:func:`~distil_nlp.signals.labelled_items`). A row may become several; it then says of which it is a part in
        ``example``.
        """

    @abstractmethod
    def collator(self, tokenizer: PreTrainedTokenizerBase, *, train: bool = True) -> Any:
        """What makes a padded batch of tokenized rows.

        Args:
            tokenizer: The rows' tokenizer.
            train: Whether what is random about batches is random, or the same for every call.
        """

    def distilled(
        self,
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        teacher: PreTrainedModel,
        fingerprint: Callable[[], str],
        folder: Path,
        batch_size: int,
    ) -> Dataset:
        """The training rows as the student learns them, where the teacher has a say in it; here as they are.

        Args:
            rows: Tokenized training rows.
            tokenizer: Theirs.
            teacher: The teacher, where it can be asked.
            fingerprint: What tells its outputs from any other's.
            folder: Where what it has said is kept, so that a resumed run need not ask again.
            batch_size: Rows to ask for at a time.
        """
        return rows

    # ---- scores ----

    def metrics_for(self, label_names: list[str] | None) -> tuple[str, ...]:
        """The metrics to use when a recipe names none, for rows with these labels."""
        return self.metrics

    def forward(self, model: Predictor, tokenizer: PreTrainedTokenizerBase) -> Forward:
        """What a model gives for a padded batch that scores are made of: here its outputs."""
        return model

    def keep(self, output: Mapping[str, Array], batch: Mapping[str, Array]) -> list[Array]:
        """What scoring needs of a batch's outputs, one array a row, ``[items, ...]``: here its logits, one item."""
        return list(output["logits"][:, None])

    @abstractmethod
    def predictions(self, outputs: Lists, rows: Dataset, examples: Dataset) -> Any:
        """What the metrics take.

        Args:
            outputs: What :meth:`keep` kept of a model's, on all rows.
            rows: Tokenized.
            examples: Clean.
        """

    @abstractmethod
    def references(self, rows: Dataset, examples: Dataset) -> Any:
        """What is right, as the metrics take it."""

    def weakness(self, outputs: Lists, rows: Dataset) -> str | None:
        """Why a teacher with these outputs on tokenized rows has learned nothing; None for one that has."""
        return None


TASKS: Registry[type[Task]] = Registry("task")
