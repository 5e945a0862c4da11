"""A teacher whose outputs are computed once."""

from __future__ import annotations

import dataclasses
import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from distil_nlp.errors import ModelError, near_match
from distil_nlp.signals import Batch, Needs, Signals
from distil_nlp.teachers.base import Teacher, as_teacher, fingerprint_of
from distil_nlp.teachers.catalogue import Description, choose_store, descriptions
from distil_nlp.teachers.packing import DTYPES, Packing
from distil_nlp.teachers.recording import Recording
from distil_nlp.teachers.records import Contents
from distil_nlp.teachers.store import OutputStore

Source = PreTrainedModel | Teacher | Sequence[PreTrainedModel | Teacher]


class StoredTeacher:
    r"""Runs a teacher once on each row, and from then on reads what it gave from disk.

    Rows that are not stored are computed while the first epoch trains, or ahead by :meth:`fill`; what is read later is
    what was computed then, in later epochs and in later trainings. A row is found by a hash of what the teacher reads
    of it without padding, so that neither shuffling, sampling, accumulation, resuming nor any number of processes can
    misalign it. Stores in one folder are told apart by a hash of the teacher's weights and by what is stored and how.

    What is stored is what the objectives need: logits, hidden states of the layers concerned, and queries, keys and
    values of the blocks concerned (or finished maps, for a model that gives only these). Of a language model's
    predictions only those that count are: what the vocabulary head reads, and the head once. With ``top_k``, they are
    the logits :math:`z_v` of the k likeliest classes K and :math:`r = \log \sum_{v \notin K} e^{z_v}`, out of which
    every other class is given the logit :math:`r - \log(V - k)`. So at temperature 1 the k probabilities are exact and
    the rest is spread evenly; at higher ones the rest weighs more than it did. ``logits_topk_kl`` with a k that is no
    larger, at temperature 1, is exact.

    In float32 a training gives the weights that it gives with the teacher itself, but for what batches of another
    length or composition change in the last digits of a teacher's outputs. Rows are run as if padded on the right: a
    teacher whose positions depend on padding on the left gives what it gives without.

    Args:
        teacher: A model, a teacher, or a list of them; or a function that returns one, which is called only where it
            has to be, if ``fingerprint`` is given and the folder knows it.
        folder: Where to store; any number of teachers and trainings can share it.
        top_k: Number of classes whose logits are stored; all if None.
        dtype: ``float32``, ``float16``, or ``int8``: hidden states, queries, keys and values in 8-bit integers with one
            scale for each vector, and logits in float16. :attr:`errors` has what was lost.
        budget_mb: Largest size of what is stored for this teacher and these needs, in megabytes.
        fingerprint: What tells this teacher from any other, in the place of a hash of its weights.

    Attributes:
        expected_rows: Number of rows that will be asked for, if known: then a size beyond the budget, or the disk, is
            refused at the first batch.
        live: The teacher behind it, once that is loaded.

    Raises:
        ModelError: for what cannot be stored so.
    """

    def __init__(
        self,
        teacher: Source | Callable[[], Source],
        folder: str | Path,
        *,
        top_k: int | None = None,
        dtype: str = "float32",
        budget_mb: float = 10_000.0,
        fingerprint: str | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise ModelError(f"dtype is {dtype!r}.", near_match(str(dtype), DTYPES), "Give one of these.")
        if (top_k is not None and top_k < 1) or budget_mb <= 0:
            raise ModelError(
                "top_k and budget_mb are numbers above 0.", f"Found {top_k} and {budget_mb}.", "Correct them."
            )
        self.folder, self.top_k, self.dtype, self.budget_mb = Path(folder), top_k, dtype, budget_mb
        self.expected_rows: int | None = None
        self._fingerprint, self._load = fingerprint, teacher
        self.live: Teacher | None = None
        known = None
        if _is_function(teacher) and fingerprint is not None:
            known = next((d for _, d in descriptions(self.folder) if d.teacher == fingerprint), None)
        if known is not None:
            self.shape, self.input_names, self.label_names = known.contents.shape, known.input_names, known.label_names
        else:
            live = self._loaded()
            self.shape, self.input_names = live.shape, live.input_names
            self.label_names = getattr(live, "label_names", None)
        self._packing = Packing(dtype)
        self._needs: Needs | None = None
        self._recording: Recording | None = None
        self._at_end: weakref.finalize[..., Any] | None = None

    # ---- what a teacher is ----

    def prepare(self, needs: Needs, device: torch.device) -> None:
        """Opens the store for what is needed. The teacher itself is moved to the device when it first has to run."""
        self.flush()
        if self._at_end is not None:
            self._at_end.detach()  # it holds the store that was open before
        self._needs, self._recording = needs, None
        if not (needs.head or needs.hidden_states or needs.attentions):
            return
        description = Description(
            self.fingerprint(), self.dtype, self.contents(needs), self.input_names, self.label_names
        )
        path, contents = choose_store(self.folder, description)
        store = OutputStore(path, rank=_rank())
        self._at_end = weakref.finalize(self, store.flush)  # also when the interpreter ends
        self._recording = Recording(
            store, contents, self._packing, teacher=self._loaded, input_names=self.input_names, device=device
        )
        self._recording.expect(self.expected_rows or 0, self.budget_mb)
        if not len(store):
            self._recording.running()  # whatever the teacher has against its needs is said now

    def __call__(self, batch: Batch, needs: Needs) -> Signals:
        """Signals for a batch, out of stored rows; rows that are not stored are computed and stored first.

        Raises:
            TrainingError: if more would be stored than the budget or the disk holds.
        """
        if not (needs.head or needs.hidden_states or needs.attentions):
            return Signals()
        recording = self._recording
        if recording is None or not recording.contents.covers(needs):
            raise ModelError(
                "A stored teacher was asked for signals.",
                f"It was prepared for {self._needs}, and is asked for {needs}.",
                "Call prepare(needs, device) with all that will be needed; a trainer does.",
            )
        return recording.signals(batch, needs)

    def fingerprint(self) -> str:
        """What tells this teacher from any other, as it is now: a trainer may have fitted it to its padding."""
        return self._fingerprint or fingerprint_of(self._loaded())

    def flush(self) -> None:
        """Writes what waits in memory; called when training ends, however it ends."""
        if self._recording is not None:
            self._recording.store.flush()

    # ---- the store ----

    def fill(
        self,
        dataset: Any,
        collator: Callable[[list[Any]], Any],
        *,
        batch_size: int = 32,
        needs: Needs | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        """Computes and stores all rows of a data set that are not stored yet, with a progress bar.

        Processes of a distributed run share the work. It can be interrupted, and goes on where it was.

        Args:
            dataset: Tokenized rows, by number.
            collator: Makes a padded batch of a list of rows.
            batch_size: Rows that the teacher sees at a time.
            needs: What to store. If None, what the store has been prepared for, by a trainer say.
            device: Where the teacher runs, if ``needs`` is given.

        Raises:
            TrainingError: if it would be larger than the budget or the disk, which the first batch tells.
        """
        if needs is not None:
            self.prepare(needs, torch.device(device))
        recording = self._recording
        if recording is None:
            raise ModelError(
                "A store was to be filled.",
                "Nothing says what with.",
                "Give needs=Needs(logits=True), say, or make the trainer first.",
            )
        recording.expect(len(dataset), self.budget_mb)
        starts = range(_rank() * batch_size, len(dataset), batch_size * _processes())
        try:
            for start in tqdm(starts, desc="Storing the teacher's outputs", disable=None):
                batch = collator([dataset[row] for row in range(start, min(start + batch_size, len(dataset)))])
                recording.rows({k: v.to(recording.device) if isinstance(v, Tensor) else v for k, v in batch.items()})
        finally:
            self.flush()

    def contents(self, needs: Needs) -> Contents:
        """What is stored of each row for some needs.

        Raises:
            ModelError: for what cannot be stored: a teacher's own loss, or ``top_k`` of too few logits.
        """
        shape, top_k = self.shape, self.top_k if needs.head else None
        if needs.loss:
            raise ModelError(
                "An objective asks for the teacher's own loss.", "It is not stored.", "Use the teacher without a store."
            )
        if top_k is not None and (shape.problem is not None or shape.item == "span" or top_k >= shape.num_outputs):
            raise ModelError(
                f"top_k={top_k} stores the largest of many logits.",
                f"The teacher's predictions are per {shape.item}, with {shape.num_outputs} outputs "
                f"({shape.problem or 'one class each'}).",
                "Leave it out: all of them take little space, or are needed.",
            )
        # An encoder-decoder's predictions are at its target's tokens, so they are stored by item, too.
        decodes = shape.item == "token" and "decoder_input_ids" in self.input_names
        by_item = needs.vocabulary or (needs.logits and decodes)
        return Contents(
            dataclasses.replace(needs, logits=needs.logits and not by_item, vocabulary=by_item), shape, top_k
        )

    @property
    def num_rows(self) -> int:
        """Rows in the store that is open."""
        return 0 if self._recording is None else len(self._recording.store)

    @property
    def size_mb(self) -> float:
        """Size of the store that is open, in megabytes."""
        return 0.0 if self._recording is None else self._recording.store.num_bytes / 1e6

    @property
    def errors(self) -> dict[str, float]:
        """Relative error (root of the mean square) of what this object has stored, by name; empty in float32."""
        return self._packing.errors

    # ---- the teacher behind it ----

    def _loaded(self) -> Teacher:
        if self.live is None:
            self.live = as_teacher(cast(Source, self._load() if _is_function(self._load) else self._load))
        return self.live


def _is_function(teacher: Any) -> TypeGuard[Callable[[], Source]]:
    return callable(teacher) and not isinstance(teacher, PreTrainedModel | Teacher)


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else int(os.environ.get("RANK", 0))


def _processes() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
