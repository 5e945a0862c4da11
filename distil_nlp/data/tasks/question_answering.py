"""The span of a context that answers a question, as in SQuAD."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, Sequence, Value
from transformers import AutoModelForQuestionAnswering, PreTrainedTokenizerBase

from distil_nlp.data.align import check_fast
from distil_nlp.data.batches import Lists, map_texts
from distil_nlp.data.collate import OnlyColumns, PadRight
from distil_nlp.data.read import RawData
from distil_nlp.data.tasks.base import TASKS, Array, Task
from distil_nlp.data.texts import text_column
from distil_nlp.errors import DataError

logger = logging.getLogger(__name__)

ANSWERS = {"text": Sequence(Value("string")), "answer_start": Sequence(Value("int64"))}
POSITIONS = ("start_positions", "end_positions")
PLACES = ("null_position", "context_start", "context_length")


class Span(NamedTuple):
    """Tokens ``first`` to ``last``, both in it, and the sum of their start and end logits."""

    score: float
    first: int
    last: int


@TASKS.register("question-answering")
class QuestionAnswering(Task):
    """The answer is a span of the context, which is cut into windows of ``max_length`` tokens, the question in each.

    Windows overlap by ``stride`` tokens. In a window without the whole answer the right span is the first special
    token's (``[CLS]``), which stands for no answer, too. An example's answer is the best span of all its windows, at
    most ``max_answer_tokens`` long; with ``no_answer`` it is none where the score of none, the lowest of all windows,
    is higher by more than ``null_threshold``.

    References:
        Rajpurkar et al. (2016, arXiv:1606.05250) and (2018, arXiv:1806.03822); Devlin et al. (2018, arXiv:1810.04805)
        for spans by start and end logits. All spans are searched, where transformers' example looks at those of the 20
        best starts and ends. The answer learned is the first of a row's.
    """

    auto_class = AutoModelForQuestionAnswering
    keys = ("question", "context", "answers")
    metrics = ("squad_f1", "exact_match")
    predicts = "answer"

    def says_nothing(self, rows: Dataset, raw: RawData) -> bool:
        """No question has an answer."""
        return not any(self._answers(rows))

    def clean_rows(self, rows: Dataset, dropped: Counter[str]) -> Dataset:
        """Those with ``question``, ``context`` and ``answers``, of which each stands where ``answer_start`` says."""
        questions = text_column(rows, "question", self.settings)
        contexts = text_column(rows, "context", self.settings, strip=False)
        kept, answers = [], []
        for row, found in enumerate(self._answers(rows)):
            right = [(text, at) for text, at in found or () if at >= 0 and contexts[row].startswith(text, at)]
            answers.append({"text": [text for text, _ in right], "answer_start": [at for _, at in right]})
            if not questions[row] or not contexts[row].strip():
                dropped["empty text"] += 1
            elif found is None:
                dropped["no label"] += 1
            elif not found and not self.settings.no_answer:
                dropped["no answer"] += 1
            elif found and not right:
                dropped["no answer where answer_start says"] += 1
            else:
                kept.append(row)
        names = {column: key for key, column in self.columns.items() if key != "answers"}
        clean = rows.remove_columns(self.settings.answers).rename_columns(names)
        return clean.add_column("answers", answers, feature=ANSWERS).select(kept)

    def _answers(self, rows: Dataset) -> list[list[tuple[str, int]] | None]:
        """The answers of each row and where they start, but for empty ones; None where nothing is said of them."""
        found: list[list[tuple[str, int]] | None] = []
        for row, value in enumerate(rows[self.settings.answers][:]):
            if value is None:
                found.append(None)
                continue
            texts, starts = _lists(value)
            if len(texts) != len(starts) or not all(
                isinstance(text, str) and type(start) is int for text, start in zip(texts, starts, strict=True)
            ):
                raise DataError(
                    f"The column '{self.settings.answers}' of '{self.settings.dataset}' does not hold answers.",
                    f"Row {row + 1} has {value!r}.",
                    "Write {text: [...], answer_start: [...]} in each row, starts as characters of the context.",
                )
            found.append([(text, start) for text, start in zip(texts, starts, strict=True) if text.strip()])
        return found

    def texts(self, rows: Dataset) -> list[tuple[str, ...]]:
        """The context: all that is asked of one is in one split."""
        return [(context,) for context in rows["context"][:]]

    def model_kwargs(self, label_names: list[str] | None) -> dict[str, Any]:
        """A start and an end, whatever labels the checkpoint was trained for."""
        return {"num_labels": 2}

    def corpus(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Iterable[str]:
        """Questions and contexts."""
        return [*(question.strip() for question in rows["question"][:]), *rows["context"][:]]

    def tokenize(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """Windows: what the model takes, ``start_positions`` and ``end_positions``, and where their context stands.

        That is ``example`` (the row), ``offsets`` (characters of each context token), ``context_start`` and
        ``context_length`` (its place among the tokens) and ``null_position``.
        """
        check_fast(tokenizer, "Answers are cut out of their context by the place of tokens in it.")
        windows = map_texts(
            rows,
            _encode,
            with_indices=True,
            tokenizer=tokenizer,
            max_length=self.settings.max_length,
            stride=self.settings.stride,
        )
        if "answers" in rows.column_names:
            _warn_of_cut_answers(rows["answers"][:], windows)
        return windows

    def collator(self, tokenizer: PreTrainedTokenizerBase, *, train: bool = True) -> OnlyColumns:
        """Pads each batch to its longest row; for evaluation, batches say where each context is."""
        names = (*tokenizer.model_input_names, *POSITIONS)
        return OnlyColumns(PadRight(tokenizer), names if train else (*names, *PLACES))

    def keep(self, output: Mapping[str, Array], batch: Mapping[str, Array]) -> list[Array]:
        """Start and end logits of no answer, and after it of each context token: ``[1 + context tokens, 2]``."""
        logits = np.stack([output["start_logits"], output["end_logits"]], axis=-1)  # [batch, tokens, 2]
        places = zip(logits, *(batch[name] for name in PLACES), strict=True)
        return [np.concatenate([row[[null]], row[start : start + length]]) for row, null, start, length in places]

    def predictions(self, outputs: Lists, rows: Dataset, examples: Dataset) -> list[str]:
        """The answer to each question, empty for none."""
        contexts = examples["context"][:]
        best, answers, none = [-math.inf] * len(contexts), [""] * len(contexts), [math.inf] * len(contexts)
        for logits, window in zip(outputs.by_row(), rows.select_columns(["example", "offsets"]), strict=True):
            example, offsets = window["example"], window["offsets"]
            none[example] = min(none[example], float(logits[0].sum()))
            span = best_span(logits[1:, 0], logits[1:, 1], self.settings.max_answer_tokens)
            if span is not None and span.score > best[example]:
                best[example] = span.score
                answers[example] = contexts[example][offsets[span.first][0] : offsets[span.last][1]].strip()
        if not self.settings.no_answer:
            return answers
        least = self.settings.null_threshold
        return ["" if none[i] - best[i] > least else answer for i, answer in enumerate(answers)]

    def references(self, rows: Dataset, examples: Dataset) -> list[list[str]]:
        """The right answers to each question; none where there is no answer."""
        return [answers["text"] for answers in examples["answers"][:]]

    def weakness(self, outputs: Lists, rows: Dataset) -> str | None:
        """Its spans overlap the right ones no better than the whole context would."""
        given, whole = [], []
        columns = zip(*(rows[name][:] for name in (*POSITIONS, *PLACES)), strict=True)
        for logits, (first, last, null, start, length) in zip(outputs.by_row(), columns, strict=True):
            span = best_span(logits[1:, 0], logits[1:, 1], self.settings.max_answer_tokens)
            if first != null and span is not None:  # or else the window has no answer
                given.append(_overlap((span.first, span.last), (first - start, last - start)))
                whole.append(_overlap((0, length - 1), (first - start, last - start)))
        if not given or np.mean(given) > np.mean(whole):
            return None
        return (
            f"On {len(given)} windows of validation rows with an answer, the F1 of its tokens is {np.mean(given):.3f}; "
            f"always giving the whole context would have {np.mean(whole):.3f}."
        )


def _lists(answers: Any) -> tuple[list[Any], list[Any]]:
    """Texts and starts, of lists or of a list of pairs; of anything else lists that do not match."""
    if isinstance(answers, list) and all(isinstance(each, dict) for each in answers):
        return [each.get("text") for each in answers], [each.get("answer_start") for each in answers]
    if isinstance(answers, dict) and all(isinstance(answers.get(key), list) for key in ANSWERS):
        return answers["text"], answers["answer_start"]
    return [answers], []


def best_span(start: Array, end: Array, longest: int) -> Span | None:
    r"""The span of at most ``longest`` tokens with the highest sum of logits; None without tokens.

    .. math:: \arg\max_{i \le j < i + n} s_i + e_j

    Args:
        start: Logits of each token as the first of the span, ``[tokens]``.
        end: Those of each as the last.
        longest: Tokens of a span.
    """
    best = None
    for more in range(min(longest, len(start))):
        sums = start[: len(start) - more] + end[more:]
        first = int(sums.argmax())
        if best is None or sums[first] > best.score:
            best = Span(float(sums[first]), first, first + more)
    return best


def _overlap(given: tuple[int, int], right: tuple[int, int]) -> float:
    """F1 of the tokens of two spans."""
    both = max(0, min(given[1], right[1]) - max(given[0], right[0]) + 1)
    return 2 * both / sum(last - first + 1 for first, last in (given, right))


def _encode(
    batch: dict[str, list[Any]],
    indices: list[int],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    stride: int,
) -> dict[str, Any]:
    encoded = tokenizer(
        _shortened([question.strip() for question in batch["question"]], tokenizer, max_length, stride),
        batch["context"],
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    owners, mapping = encoded.pop("overflow_to_sample_mapping"), encoded.pop("offset_mapping")
    columns: dict[str, list[Any]] = {name: [] for name in ("example", "offsets", *PLACES, *POSITIONS)}
    for window, (owner, offsets, ids) in enumerate(zip(owners, mapping, encoded["input_ids"], strict=True)):
        parts = encoded.sequence_ids(window)
        start = parts.index(1) if 1 in parts else len(parts)
        shown = [tuple(each) for part, each in zip(parts, offsets, strict=True) if part == 1]
        null = ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0
        span = _place(batch["answers"][owner], shown) if "answers" in batch else None
        first, last = (null, null) if span is None else (start + span[0], start + span[1])
        values = (indices[owner], shown, null, start, len(shown), first, last)
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    return {**encoded, **columns}


def _warn_of_cut_answers(answers: list[Mapping[str, list[Any]]], windows: Dataset) -> None:
    """Says of how many rows no window has the whole answer."""
    places = zip(*(windows[name][:] for name in ("example", POSITIONS[0], PLACES[0])), strict=True)
    found = {example for example, first, null in places if first != null}
    if cut := sum(bool(each["text"]) and row not in found for row, each in enumerate(answers)):
        logger.warning("%d rows have an answer that no window holds as a whole: they are learned as having none.", cut)


def _shortened(questions: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int) -> list[str]:
    """Questions cut, so that a window moves on by as many tokens at least as the longest question has."""
    most = max(1, (max_length - stride - tokenizer.num_special_tokens_to_add(pair=True)) // 2)
    ids = tokenizer(questions, truncation=False, add_special_tokens=False, verbose=False)["input_ids"]
    return [
        question if len(tokens) <= most else _cut(question, tokenizer, most)
        for question, tokens in zip(questions, ids, strict=True)
    ]


def _cut(question: str, tokenizer: PreTrainedTokenizerBase, most: int) -> str:
    """The beginning of a question; tokens that are cut within a word or a character may become more of them."""
    while True:
        encoded = tokenizer(
            question, truncation=False, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        places = encoded["offset_mapping"]
        if len(places) <= most:
            return question
        question = question[: min(places[most - 1][1], len(question) - 1)]


def _place(answers: Mapping[str, list[Any]], offsets: list[tuple[int, int]]) -> tuple[int, int] | None:
    """The first and the last of a window's tokens that belong to the first answer, if the window has all of it."""
    if not answers["text"]:
        return None
    start = answers["answer_start"][0]
    end = start + len(answers["text"][0])
    inside = [i for i, (first, last) in enumerate(offsets) if first < end and last > start]
    if not inside or offsets[0][0] > start or offsets[-1][1] < end:
        return None
    return inside[0], inside[-1]
