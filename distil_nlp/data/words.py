"""Texts as words, each at its place, so that words can be changed and everything else stays as it is."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby, pairwise


@cache
def in_word(character: str) -> bool:
    """Whether a character is a letter, a mark on one, or a digit."""
    return character.isalnum() or unicodedata.category(character)[0] == "M"


@dataclass(frozen=True)
class Words:
    """A text and where its words are.

    Words of a plain text are runs of letters, marks, digits and underscores, and single other characters, much as BERT
    cuts texts first of all; of a list of words they are its items.

    Attributes:
        text: The text; of a list its items, with spaces between them.
        spans: First character and the one after the last, of each word.
        listed: Whether it was a list.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    listed: bool = False

    @classmethod
    def of(cls, text: str | Sequence[str]) -> Words:
        """Finds the words of a text, or of a list of words."""
        if isinstance(text, str):
            return cls(text, tuple(_spans(text)))
        starts = [0]
        for word in text:
            starts.append(starts[-1] + len(word) + 1)
        spans = tuple((start, start + len(word)) for start, word in zip(starts, text, strict=False))
        return cls(" ".join(text), spans, listed=True)

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, place: int) -> str:
        start, end = self.spans[place]
        return self.text[start:end]

    def __iter__(self) -> Iterator[str]:
        return (self.text[start:end] for start, end in self.spans)

    def with_words(self, words: Sequence[str], window: slice = slice(None)) -> str | list[str]:
        """The text, or list, with other words in the places of its own.

        Args:
            words: One for each of its own.
            window: Which of them to keep, without gaps.
        """
        if self.listed:
            return list(words[window])
        kept, spans = words[window], self.spans[window]
        gaps = [self.text[end:start] for (_, end), (start, _) in pairwise(spans)]
        return "".join(part for pair in zip(kept, [*gaps, ""], strict=False) for part in pair)


def _spans(text: str) -> Iterator[tuple[int, int]]:
    for of_word, run in groupby(range(len(text)), lambda place: in_word(text[place]) or text[place] == "_"):
        places = list(run)
        if of_word:
            yield places[0], places[-1] + 1
        else:
            yield from ((place, place + 1) for place in places if not text[place].isspace())
