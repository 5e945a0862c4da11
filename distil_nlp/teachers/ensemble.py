"""Several teachers as one."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distil_nlp.errors import ModelError, near_match
from distil_nlp.functional.attention import valid_indices
from distil_nlp.functional.averaging import mean_log_probabilities, mean_logits
from distil_nlp.functional.confidence import CONFIDENCES, confidence
from distil_nlp.signals import MULTI_LABEL, REGRESSION, Batch, ItemLogits, Needs, Shape, Signals, at_items, valid_tokens
from distil_nlp.teachers.base import Teacher, as_teacher, fingerprint_of
from distil_nlp.teachers.label_sets import find_labels, shared_names, shared_outputs

AVERAGES = ("probabilities", "logits")
_LEAST_CONFIDENCE = 1e-6  # so that members who are all sure of nothing still count alike


class EnsembleTeacher:
    r"""Teaches the mean of several teachers' predictions, and the features of one of them.

    .. math:: p(v|x) = \frac{\sum_m w_m(x) \, p_m(v|x)}{\sum_m w_m(x)}

    over the members m that know the label v, scaled to sum to 1 over all labels. Members may be of different
    architectures, but read the same batches, so they share one tokenizer. A member runs to its end only where its
    prediction is needed; hidden states and attention are captured of one member alone.

    What an objective's temperature then does depends on ``average``:

    - ``probabilities``: the ensemble's logits are :math:`\log p(v|x)`. A temperature T softens the mean, to
      :math:`p^{1/T}`; it does not average softened distributions. At T = 1 both are the same.
    - ``logits``: the ensemble's logits are the mean of the members'. At any T, its distribution is the normalised
      geometric mean of the members' distributions, each softened by T.

    For multi-label classification every label is a mean of its own. For a regression it is that of the values.

    Args:
        teachers: Models or teachers.
        weights: How much each member counts, above 0; all alike if None.
        by_confidence: Whether a member's weight is multiplied, prediction by prediction, by how sure it is of it:
            ``"entropy"``, one minus the entropy over its largest possible value, or ``"max_prob"``.
        average: ``"probabilities"`` or ``"logits"``.
        labels: The student's label names, in order. Members' labels are found in it by their names
            (``config.id2label``), so that members may know different labels. If None, all have the same ones.
        features_from: Number of the member, from 0, whose hidden states and attention are taught.

    Raises:
        ModelError: for members that do not go together.

    References:
        Hinton, Vinyals, Dean (2015), arXiv:1503.02531, section 1, name the arithmetic mean of the members' predictive
        distributions, which is the default, and the geometric one. Kwon, Na, Lee, Kim (2020), "Adaptive knowledge
        distillation based on entropy", ICASSP, let teachers of lower entropy count more; the weight used here is the
        one of :func:`~distil_nlp.functional.confidence.confidence`, not theirs. Averaging a label over the members that
        know it is our choice; Vongkulbhisal et al. (2019), arXiv:1904.06062, instead solve for the distribution over
        all labels that explains each member's over its own.
    """

    def __init__(
        self,
        teachers: Sequence[PreTrainedModel | Teacher],
        *,
        weights: Sequence[float] | None = None,
        by_confidence: str | None = None,
        average: str = "probabilities",
        labels: Sequence[str] | None = None,
        features_from: int = 0,
    ) -> None:
        self.members = [as_teacher(teacher) for teacher in teachers]
        self.weights = [float(weight) for weight in weights] if weights is not None else [1.0] * len(self.members)
        self.by_confidence, self.average, self.features_from = by_confidence, average, features_from
        self._check_arguments()
        shapes = [member.shape for member in self.members]
        self._check_shapes(shapes)
        self.label_names = shared_names(self.members) if labels is None else tuple(labels)
        self._columns = None if labels is None else find_labels(self.members, labels)
        outputs = shared_outputs(shapes) if labels is None else len(labels)
        self.shape: Shape = dataclasses.replace(shapes[features_from], num_outputs=outputs)
        partial = self._columns is not None and any(len(columns) < outputs for columns in self._columns)
        if partial and average == "logits" and self.shape.problem is None:
            raise ModelError(
                "average='logits' is a mean over members that all know the same labels.",
                "Some lack a label, and what two heads call 0 is not the same.",
                "Use average='probabilities'.",
            )
        self.input_names = frozenset().union(*(member.input_names for member in self.members))

    # ---- what a teacher is ----

    def prepare(self, needs: Needs, device: torch.device) -> None:
        """Prepares each member for what it will be asked."""
        if needs.loss:
            raise ModelError(
                "An objective asks for the teacher's own loss.", "An ensemble has none.", "Use logits, or one teacher."
            )
        for number, member in enumerate(self.members):
            member.prepare(self._asked_of(number, needs), device)

    def __call__(self, batch: Batch, needs: Needs) -> Signals:
        """Signals for a batch: mean predictions, and one member's features."""
        seen = {
            number: member(batch, self._asked_of(number, needs))
            for number, member in enumerate(self.members)
            if needs.head or number == self.features_from
        }
        chosen = seen[self.features_from]
        signals = Signals(hidden_states=chosen.hidden_states, attentions=chosen.attentions)
        if needs.vocabulary:
            parts = [_at_items(each, batch, self.shape.item) for each in seen.values()]
            signals.item_logits = _MeanOfItems(parts, self._mean)
        elif needs.logits:
            logits = [_logits(each) for each in seen.values()]
            signals.logits = self._mean_of_spans(logits, batch) if self.shape.item == "span" else self._mean(logits)
        return signals

    def fingerprint(self) -> str:
        """A hash of the members and of how they are put together."""
        told = [fingerprint_of(member) for member in self.members], self.weights, self.by_confidence, self.average
        placed = None if self._columns is None else [columns.tolist() for columns in self._columns]
        said = repr((*told, placed, self.features_from, self.shape.num_outputs))
        return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()

    def flush(self) -> None:
        """Called when training ends: members that store their outputs write them."""
        for member in self.members:
            flush = getattr(member, "flush", None)
            if flush is not None:
                flush()

    # ---- the mean ----

    def _asked_of(self, number: int, needs: Needs) -> Needs:
        if number == self.features_from:
            return needs
        return Needs(logits=needs.logits, vocabulary=needs.vocabulary)

    def _mean(self, logits: Sequence[Tensor]) -> Tensor:
        """``[..., labels]`` of the members' ``[..., their labels]``."""
        binary = self.shape.problem == MULTI_LABEL
        if self._columns is None:
            logits = [z[..., : self.shape.num_outputs] for z in logits]  # without rows that pad a vocabulary
        weights = torch.stack([self._weight(number, z) for number, z in enumerate(logits)])
        away = 0.0 if binary else -math.inf
        stacked = torch.stack([self._placed(number, z, away) for number, z in enumerate(logits)])
        if self.average == "logits" or self.shape.problem == REGRESSION:
            return mean_logits(stacked, weights)
        if not binary:
            return mean_log_probabilities(stacked, weights)
        log_p = mean_log_probabilities(torch.stack([stacked, torch.zeros_like(stacked)], -1), weights.unsqueeze(-1))
        return log_p[..., 0] - log_p[..., 1]

    def _weight(self, number: int, logits: Tensor) -> Tensor:
        """A member's weight: ``[..., 1]`` for a prediction, ``[..., labels]`` where labels differ or are apart."""
        binary = self.shape.problem == MULTI_LABEL
        weight = logits.new_full((*logits.shape[:-1], 1), self.weights[number], dtype=torch.float32)
        if self.by_confidence is not None:
            classes = torch.stack([logits, torch.zeros_like(logits)], dim=-1) if binary else logits.unsqueeze(-2)
            weight = weight * confidence(classes, self.by_confidence).clamp(min=_LEAST_CONFIDENCE)
        return self._placed(number, weight if self._columns is None else weight.expand(logits.shape), 0.0)

    def _placed(self, number: int, values: Tensor, fill: float) -> Tensor:
        """A member's labels put where the ensemble has them: ``[..., labels]``."""
        if self._columns is None:
            return values
        placed = values.new_full((*values.shape[:-1], self.shape.num_outputs), fill)
        placed[..., self._columns[number]] = values
        return placed

    def _mean_of_spans(self, logits: Sequence[Tensor], batch: Batch) -> Tensor:
        """``[batch, 2, tokens]``, each a distribution over the tokens that are not padding; 0 at padding."""
        means = torch.zeros_like(logits[0], dtype=torch.float32)
        for row, tokens in enumerate(valid_indices(valid_tokens(batch))):
            parts = [each[row][:, tokens] for each in logits]
            weights = torch.stack([self._weight(number, part) for number, part in enumerate(parts)])
            mean = mean_logits if self.average == "logits" else mean_log_probabilities
            means[row][:, tokens] = mean(torch.stack(parts), weights).float()
        return means

    # ---- what goes together ----

    def _check_arguments(self) -> None:
        if not self.members:
            raise ModelError("An ensemble has members.", "There is none.", "Give two teachers or more.")
        if len(self.weights) != len(self.members) or not all(weight > 0 for weight in self.weights):
            raise ModelError(
                "An ensemble's weights are one number above 0 for each member.",
                f"There are {len(self.members)} members, and the weights are {self.weights}.",
                "Give as many weights, or leave a member out whose weight is 0.",
            )
        for name, value, known in (
            ("by_confidence", self.by_confidence, (None, *CONFIDENCES)),
            ("average", self.average, AVERAGES),
            ("features_from", self.features_from, range(len(self.members))),
        ):
            if value not in known:
                raise ModelError(f"{name} is {value!r}.", near_match(str(value), map(str, known)), "Give one of these.")

    def _check_shapes(self, shapes: Sequence[Shape]) -> None:
        kinds = {(shape.item, shape.problem) for shape in shapes}
        if len(kinds) > 1:
            listed = ", ".join(f"{n}: {shape.item} ({shape.problem})" for n, shape in enumerate(shapes))
            raise ModelError(
                "The members of an ensemble make predictions of one kind.",
                f"What they predict, and their config.problem_type: {listed}.",
                "Leave members out, or give all the same kind of head and the same config.problem_type.",
            )
        if self.by_confidence is not None and shapes[0].problem == REGRESSION:
            raise ModelError(
                "by_confidence is how sure a teacher is of a class.",
                "The members are regressions, which have none.",
                "Leave it out, or give weights.",
            )


@dataclass(frozen=True)
class _MeanOfItems:
    """Mean logits at the items, made for some of them at a time."""

    parts: list[ItemLogits | Tensor]
    mean: Callable[[Sequence[Tensor]], Tensor]

    def logits(self, rows: slice) -> Tensor:
        return self.mean([part[rows] if isinstance(part, Tensor) else part.logits(rows) for part in self.parts])


def _logits(signals: Signals) -> Tensor:
    if signals.logits is None:
        raise ModelError(
            "An ensemble averages its members' predictions.",
            "A member gave no logits.",
            "Give every member a head, or ask for features alone.",
        )
    return signals.logits


def _at_items(signals: Signals, batch: Batch, item: str | None) -> ItemLogits | Tensor:
    return signals.vocabulary or signals.item_logits or at_items(_logits(signals), batch, item)
