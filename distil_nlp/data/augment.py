"""Copies of texts in which words are masked or replaced, or of which a few words are kept, for a teacher to label."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from datasets import Dataset
from datasets.fingerprint import Hasher

from distil_nlp.data.candidates import Candidates, CandidateSource
from distil_nlp.data.split import text_key
from distil_nlp.data.words import Words

NGRAM = 5  # words that are kept, at most


@dataclass(frozen=True)
class Augmentation:
    r"""How texts are changed.

    In each copy a word becomes the mask token with the first probability and one of its candidates, if it has any, with
    the second; then, with the third, n words in a row are kept of the copy, n being 1 to 5. Of a pair of texts copies
    change the first, the second and both in turn. Labels are not kept: the teacher labels the copies.

    Attributes:
        copies: Of each row; those that repeat a text are left out.
        seed: What is drawn depends on it and on the texts of the row alone.
        mask_token: The model's.
        mask_probability: Of a word.
        replace_probability: Of a word that has candidates.
        ngram_probability: Of a text.
        sources: Where candidates come from; with several, those of all together.

    References:
        Tang et al. (2019), arXiv:1903.12136, section 3.2: masking with 0.1, n-grams with 0.25, 20 copies (60 of a pair:
        20 of each of the three kinds), one draw a word for what happens to it. Their third rule, replacement by a word
        of the same part of speech, needs a tagger and is left out.
        Jiao et al. (2020), arXiv:1909.10351, algorithm 1: replacement with 0.4 by one of 15 candidates, 20 copies.
        There words that are one token have candidates from a masked language model and others from GloVe; here
        embeddings are the teacher's own, so that words of several tokens have none. Their code passes over English stop
        words and shows the model the unmasked text beside the masked one; this does neither, as in the paper. A word is
        never its own candidate, and copies change both texts of a pair together, too.
    """

    copies: int
    seed: int
    mask_token: str | None = None
    mask_probability: float = 0.0
    replace_probability: float = 0.0
    ngram_probability: float = 0.0
    sources: tuple[CandidateSource, ...] = ()

    def candidates(self, texts: Sequence[Words]) -> list[Candidates]:
        """The candidates of each word of each text."""
        found = [source(texts) for source in self.sources]
        return [
            [[other for words in each for other in words[place]] for place in range(len(text))]
            for text, *each in zip(texts, *found, strict=True)
        ]

    def changed(self, text: Words, candidates: Candidates, dice: np.random.Generator) -> str | list[str] | None:
        """One copy of a text; None if nothing but masks is left of it."""
        words = list(text)
        for place, draw in enumerate(dice.random(len(words))):
            if draw < self.mask_probability:
                words[place] = str(self.mask_token)
            elif draw < self.mask_probability + self.replace_probability and candidates[place]:
                words[place] = candidates[place][dice.integers(len(candidates[place]))]
        window = slice(0, len(words))
        if dice.random() < self.ngram_probability:
            size = min(int(dice.integers(1, NGRAM + 1)), len(words))
            start = int(dice.integers(len(words) - size + 1))
            window = slice(start, start + size)
        if all(word == self.mask_token for word in words[window]):
            return None
        return text.with_words(words, window)

    def of_row(self, row: Mapping[str, tuple[Words, Candidates]]) -> Iterator[dict[str, str | list[str]]]:
        """The copies of a row: of its texts by column."""
        key = int.from_bytes(text_key(*(text.text for text, _ in row.values()))[:8], "big")
        dice = np.random.default_rng([self.seed, key])
        columns = list(row)
        turns = [columns] if len(columns) == 1 else [*([column] for column in columns), columns]
        for copy in range(self.copies):
            turn = turns[copy % len(turns)]
            texts = {
                column: self.changed(*texts, dice) if column in turn else texts[0].with_words(list(texts[0]))
                for column, texts in row.items()
            }
            if None not in texts.values():
                yield texts  # type: ignore[misc]

    def fingerprint(self, rows: Dataset, columns: Sequence[str]) -> str:
        """Of the copies of rows, by which they are found on the disk."""
        settings = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "sources"}
        sources = [source.fingerprint() for source in self.sources]
        version = importlib.metadata.version("distil_nlp")
        return str(Hasher.hash([rows._fingerprint, list(columns), settings, sources, version]))


def augmented(rows: Dataset, columns: Sequence[str], how: Augmentation) -> Dataset:
    """All copies of clean rows, without labels; cached on disk where the rows are.

    Args:
        rows: Clean.
        columns: Those with texts, or lists of words.
        how: How they are changed.
    """

    def copies(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        texts = {column: [Words.of(text or "") for text in batch[column]] for column in columns}
        found = {column: how.candidates(texts[column]) for column in columns}
        made = [
            copy
            for row in range(len(batch[columns[0]]))
            for copy in how.of_row({column: (texts[column][row], found[column][row]) for column in columns})
        ]
        return {name: [copy.get(name) for copy in made] for name in rows.column_names}

    return rows.map(
        copies,
        batched=True,
        remove_columns=rows.column_names,
        features=rows.features,
        new_fingerprint=how.fingerprint(rows, columns),
        desc="Augmenting",
    )
