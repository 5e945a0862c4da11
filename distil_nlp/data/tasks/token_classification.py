"""A tag for each word of a text that is cut into words: entities, parts of speech."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from datasets import ClassLabel, Dataset, Sequence
from transformers import (
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    PreTrainedTokenizerBase,
)

from distil_nlp.data.align import check_fast
from distil_nlp.data.batches import Lists, list_batches, list_counts, map_texts
from distil_nlp.data.collate import OnlyColumns
from distil_nlp.data.label_lists import encode_label_lists, is_entity_tag
from distil_nlp.data.read import RawData
from distil_nlp.data.tasks.base import IGNORED, TASKS, Array, Task
from distil_nlp.errors import DataError
from distil_nlp.signals import UNLABELLED

logger = logging.getLogger(__name__)


@TASKS.register("token-classification")
class TokenClassification(Task):
    """A word's tag is predicted at its first token; its other tokens are ignored (``-100``).

    Its default objective is the one that helps most with entities (docs/benchmarks.md); other tags it suits as well as
    that of other tasks.
    """

    auto_class = AutoModelForTokenClassification
    keys = ("tokens", "tags")
    default_objectives: ClassVar[Mapping[str, Mapping[str, Any]]] = {"logits_mse": {}}
    metrics = ("entity_f1", "entity_precision", "entity_recall", "tag_accuracy")
    predicts = "tags"

    def clean(self, raw: RawData, dropped: Counter[str]) -> dict[str, Dataset]:
        """Rows with ``tokens`` and ``tags``, lists of like length."""
        self.leave_out_secret(raw)
        tags, feature = encode_label_lists(raw.splits, self.settings.tags, key="tags", known_names=raw.label_names)
        return {name: self._clean(rows, tags[name], feature, dropped) for name, rows in raw.splits.items()}

    def says_nothing(self, rows: Dataset, raw: RawData) -> bool:
        """All words have the tag of what is no entity, or none."""
        names = raw.label_names or getattr(getattr(rows.features[self.settings.tags], "feature", None), "names", [])
        nothing = ["O", -1, IGNORED, *(number for number, name in enumerate(names) if name == "O")]
        found = [tags or [] for tags in rows[self.settings.tags][:]]
        return all(isinstance(tags, list) and all(tag in nothing for tag in tags) for tags in found)

    def _clean(self, rows: Dataset, tags: list[list[int] | None], feature: Sequence, dropped: Counter[str]) -> Dataset:
        kept = []
        for row, (words, given) in enumerate(zip(self._words(rows), tags, strict=True)):
            if not words or given is None:
                dropped["no words" if not words else "no tags"] += 1
            elif len(words) != len(given):
                raise DataError(
                    f"Each word of '{self.settings.dataset}' needs one tag.",
                    f"Row {row + 1} has {len(words)} words and {len(given)} tags.",
                    "Correct the row.",
                )
            else:
                kept.append(row)
        clean = rows.remove_columns(self.settings.tags).rename_columns({self.settings.tokens: "tokens"})
        return clean.add_column("tags", tags, feature=feature).select(kept)

    def _words(self, rows: Dataset) -> list[list[str]]:
        """The words of each row as found."""
        found = rows[self.settings.tokens][:]
        for row, words in enumerate(found):
            if not isinstance(words, list | None) or not all(isinstance(word, str) for word in words or ()):
                raise DataError(
                    f"The column '{self.settings.tokens}' of '{self.settings.dataset}' does not hold lists of words.",
                    f"Row {row + 1} has {words!r}.",
                    "Name the right column as `tokens`.",
                )
        return [words or [] for words in found]

    def clean_texts(self, rows: Dataset, dropped: Counter[str]) -> Dataset:
        """Rows with ``tokens``."""
        kept = [row for row, words in enumerate(self._words(rows)) if words]
        dropped["no words"] += len(rows) - len(kept)
        return rows.rename_columns({self.settings.tokens: "tokens"}).select(kept)

    def texts(self, rows: Dataset) -> list[tuple[str, ...]]:
        """The words."""
        return [(" ".join(words),) for words in rows["tokens"][:]]

    def label_names(self, rows: Dataset) -> list[str]:
        """The names of the tags."""
        feature: ClassLabel = rows.features["tags"].feature
        return list(feature.names)

    def seen_labels(self, rows: Dataset) -> set[int]:
        """The tags that occur."""
        return {tag for tags in rows["tags"][:] for tag in tags}

    def corpus(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Iterable[list[str]]:
        """The words of each row."""
        return _in_text(rows["tokens"][:], tokenizer)

    def tokenize(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """``input_ids``, ``attention_mask``, ``labels``, and which ``words`` are predicted, cut at ``max_length``."""
        check_fast(tokenizer, "Tags are given to the first token of each word.")
        encoded = map_texts(rows, _encode, tokenizer=tokenizer, max_length=self.settings.max_length)
        words, predicted = list_counts(rows, "tokens").sum(), list_counts(encoded, "words").sum()
        if predicted < words:
            logger.warning("%d of %d words are cut off by max_length, or have no token.", words - predicted, words)
        return encoded

    def collator(self, tokenizer: PreTrainedTokenizerBase, *, train: bool = True) -> OnlyColumns:
        """Pads each batch to its longest row, labels with ``-100``."""
        collator = DataCollatorForTokenClassification(tokenizer)
        return OnlyColumns(collator, (*tokenizer.model_input_names, "labels"))

    def keep(self, output: Mapping[str, Array], batch: Mapping[str, Array]) -> list[Array]:
        """Logits at the words."""
        pairs = zip(output["logits"], batch["labels"], strict=True)
        return [logits[labels != IGNORED] for logits, labels in pairs]

    def predictions(self, outputs: Lists, rows: Dataset, examples: Dataset) -> list[list[str]]:
        """A tag for each word; ``O`` or else the first tag for words that were cut off, or have no token."""
        names = self.label_names(examples)
        default = "O" if "O" in names else names[0]
        tags = [[default] * len(words) for words in examples["tokens"][:]]
        for row, logits, words in zip(tags, outputs.by_row(), rows["words"][:], strict=True):
            for word, tag in zip(words, logits.argmax(-1), strict=True):
                row[word] = names[tag]
        return tags

    def metrics_for(self, label_names: list[str] | None) -> tuple[str, ...]:
        """Of entities, where tags are of entities; or else the share of right tags."""
        return self.metrics if any(map(is_entity_tag, label_names or ())) else ("tag_accuracy",)

    def references(self, rows: Dataset, examples: Dataset) -> list[list[str]]:
        """The tags of all words."""
        names = self.label_names(examples)
        return [[names[tag] for tag in tags] for tags in examples["tags"][:]]

    def weakness(self, outputs: Lists, rows: Dataset) -> str | None:
        """It never gives a right tag but the commonest."""
        right = np.concatenate([labels.values[labels.values != IGNORED] for labels in list_batches(rows, "labels")])
        given, majority = outputs.values.argmax(-1), np.bincount(right).argmax()
        if (right == majority).all():  # so that nothing can be told
            return None
        if ((given == right) & (right != majority)).any():
            return None
        return f"On {len(right)} words of validation rows it gives no right tag but the commonest one."


def _encode(batch: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> dict[str, Any]:
    words_in_text = _in_text(batch["tokens"], tokenizer)
    encoded = tokenizer(words_in_text, is_split_into_words=True, truncation=True, max_length=max_length)
    labels, predicted = [], []
    for row in range(len(batch["tokens"])):
        words = [None, *encoded.word_ids(row)]
        tags = (batch["tags"][row] if "tags" in batch else None) or [UNLABELLED] * len(batch["tokens"][row])
        first = [word is not None and word != before for before, word in pairwise(words)]
        labels.append([tags[word] if starts else IGNORED for starts, word in zip(first, words[1:], strict=True)])
        predicted.append([word for starts, word in zip(first, words[1:], strict=True) if starts])
    return {**encoded, "labels": labels, "words": predicted}


def _in_text(rows: list[list[str]], tokenizer: PreTrainedTokenizerBase) -> list[list[str]]:
    """Words as in a text: each but the first after a space, for a tokenizer that would otherwise take them for one."""
    text = tokenizer("a a", add_special_tokens=False)["input_ids"]
    bare, spaced = (
        tokenizer(["a", second], is_split_into_words=True, add_special_tokens=False)["input_ids"]
        for second in ("a", " a")
    )
    if bare == text or spaced != text:
        return rows
    return [[f" {word}" if place and word else word for place, word in enumerate(words)] for words in rows]
