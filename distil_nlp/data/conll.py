"""Tagged sentences in columns: a word and its tag on each line, a blank line after each sentence."""

from __future__ import annotations

from collections.abc import Iterable

from distil_nlp.errors import DataError

TaggedSentences = tuple[list[list[str]], list[list[str]]]


def read_conll(lines: Iterable[str], where: str, *, tagged: bool = True) -> TaggedSentences:
    """Reads the format of the CoNLL shared tasks.

    Columns are apart by tabs, or by spaces in a line without tabs; the word is in the first and its tag in the last.
    ``-DOCSTART-`` lines are left out.

    Args:
        lines: Of a file.
        where: The file, for messages.
        tagged: Whether each word must have a tag; if not, a word may be alone, and is returned in the tag's place.

    Returns:
        The words and the tags of each sentence.

    Raises:
        DataError: A line has no word, or no tag where it must have one.
    """
    words: list[list[str]] = [[]]
    tags: list[list[str]] = [[]]
    for number, line in enumerate(lines, start=1):
        content = line.lstrip("\ufeff") if number == 1 else line
        if not content.strip() or content.startswith("-DOCSTART-"):
            if words[-1]:
                words.append([])
                tags.append([])
            continue
        columns = content.rstrip("\r\n").split("\t") if "\t" in content else content.split()
        word, tag = columns[0], columns[-1].strip()
        if not word or (tagged and (len(columns) < 2 or not tag)):
            raise DataError(
                f"Cannot read '{where}' as tagged words.",
                f"Line {number} is {content.strip()!r}.",
                f"Write a word{', a tab and its tag' * tagged} on each line, and a blank line after each sentence.",
            )
        words[-1].append(word)
        tags[-1].append(tag)
    return ([each for each in words if each], [each for each in tags if each])
