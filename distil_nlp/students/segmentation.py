"""What a tokenizer's model needs of its vocabulary to cut texts as before, read off its ``tokenizer.json``."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

from distil_nlp.errors import ModelError

Specification = dict[str, Any]
_ASCII = frozenset(string.ascii_letters + string.digits + string.punctuation)
_BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_WORD_START = "▁"


def vocabulary_of(specification: Specification) -> dict[str, int]:
    """The ids of the tokenizer's model, without tokens that were added beside it.

    Raises:
        ModelError: for a kind of tokenizer that is not known.
    """
    model = specification["model"]
    if model.get("type") not in _SMALLEST_PARTS:
        raise ModelError(
            "The vocabulary of a tokenizer is to be trimmed.",
            f"It is a {model.get('type')} tokenizer.",
            f"Known are {', '.join(_SMALLEST_PARTS)}.",
        )
    if isinstance(model["vocab"], list):
        return {token: index for index, (token, _) in enumerate(model["vocab"])}
    return dict(model["vocab"])


def always_needed(specification: Specification, used: Iterable[str]) -> set[str]:
    """Tokens that are kept whatever the corpus: unknown token, bytes, and the characters of used tokens and of ASCII.

    With its characters kept, a word that the corpus did not have is cut into smaller pieces, not lost. Under
    byte-level BPE the characters are the 256 bytes.
    """
    model, vocabulary = specification["model"], vocabulary_of(specification)
    needed = {model["unk_token"]} if model.get("unk_token") else set()
    if model.get("byte_fallback"):
        needed |= _BYTES
    if _is_byte_level(specification):
        return (needed | set(ByteLevel.alphabet())) & set(vocabulary)
    alphabet = _ASCII.union(*(_bare(token, model) for token in used))
    needed |= {token for token in vocabulary if len(bare := _bare(token, model)) <= 1 and alphabet.issuperset(bare)}
    if model["type"] == "Unigram":  # what an unknown character costs is counted from the lowest score
        needed.add(min(model["vocab"], key=lambda piece: piece[1])[0])
        if model["unk_id"] is not None:
            needed.add(model["vocab"][model["unk_id"]][0])
    return needed & set(vocabulary)


def parts_of(specification: Specification) -> Callable[[str], set[str]]:
    """A function that tells which tokens of the vocabulary have to be there for a token to come about, itself included.

    WordPiece and Unigram look a token up. BPE makes it by merges, of which each intermediate token is needed: these
    are what BPE makes of the token alone, for a merge across its borders would have made another token.
    """
    return _SMALLEST_PARTS[specification["model"]["type"]](specification["model"])


def greedy_pieces(word: str, specification: Specification) -> Iterator[str]:
    """The pieces that WordPiece finds in a word from the left, until it finds none; such a word becomes unknown.

    They have to stay: without them shorter pieces would be found, and the word might be known after all.
    """
    model = specification["model"]
    vocabulary, prefix, start = model["vocab"], model["continuing_subword_prefix"], 0
    if len(word) > model["max_input_chars_per_word"]:
        return
    while start < len(word):
        ends = range(len(word), start, -1)
        pieces = ((end, (prefix if start else "") + word[start:end]) for end in ends)
        start, piece = next(((end, piece) for end, piece in pieces if piece in vocabulary), (len(word), None))
        if piece is not None:
            yield piece


def trimmed(specification: Specification, new_ids: dict[int, int]) -> Specification:
    """The specification of the tokenizer with some ids only, renumbered."""
    model = dict(specification["model"])
    kept = {token for token, index in vocabulary_of(specification).items() if index in new_ids}
    if isinstance(model["vocab"], list):
        model["vocab"] = [piece for piece in model["vocab"] if piece[0] in kept]
        model["unk_id"] = None if model["unk_id"] is None else new_ids[model["unk_id"]]
    else:
        model["vocab"] = {token: new_ids[index] for token, index in model["vocab"].items() if token in kept}
    if "merges" in model:
        prefix = model.get("continuing_subword_prefix") or ""
        model["merges"] = [
            [left, right]
            for left, right in map(_pair, model["merges"])
            if {left, right, left + right.removeprefix(prefix)} <= kept
        ]
    added = [{**token, "id": new_ids[token["id"]]} for token in specification["added_tokens"]]
    return {
        **specification,
        "model": model,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "post_processor": _renumbered(specification["post_processor"], new_ids),
        "padding": _renumbered(specification["padding"], new_ids),
    }


def _renumbered(node: Any, new_ids: dict[int, int]) -> Any:
    """The ids in a post-processor (``ids`` of a template; ``sep`` and ``cls`` as pairs) or a padding (``pad_id``)."""
    if isinstance(node, list):
        return [_renumbered(each, new_ids) for each in node]
    if not isinstance(node, dict):
        return node
    made: dict[str, Any] = {}
    for key, value in node.items():
        if key == "ids":
            made[key] = [new_ids[index] for index in value]
        elif key in ("sep", "cls") and isinstance(value, list):  # and no token of a template that has this name
            made[key] = [value[0], new_ids[value[1]]]
        elif key == "pad_id":
            made[key] = new_ids[value]
        else:
            made[key] = _renumbered(value, new_ids)
    return made


def _looked_up(model: dict[str, Any]) -> Callable[[str], set[str]]:
    return lambda token: {token}


def _merged(model: dict[str, Any]) -> Callable[[str], set[str]]:
    ranks = {_pair(merge): rank for rank, merge in enumerate(model["merges"])}
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""

    def parts(token: str) -> set[str]:
        bare = token.removeprefix(prefix).removesuffix(suffix)
        symbols = [prefix + character for character in bare]
        if bare and not (prefix and token.startswith(prefix)):
            symbols[0] = bare[0]
        if bare and suffix and token.endswith(suffix):
            symbols[-1] += suffix
        seen = {token, *symbols}
        while len(symbols) > 1:
            rank, at = min((ranks.get(pair, len(ranks)), at) for at, pair in enumerate(pairwise(symbols)))
            if rank == len(ranks):
                return {token}  # not made by merges: a byte, an added token, or a word that is looked up whole
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1].removeprefix(prefix)]
            seen.add(symbols[at])
        return seen

    return parts


_SMALLEST_PARTS: dict[str, Callable[[dict[str, Any]], Callable[[str], set[str]]]] = {
    "WordPiece": _looked_up,
    "BPE": _merged,
    "Unigram": _looked_up,
}


def _pair(merge: str | list[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _bare(token: str, model: dict[str, Any]) -> str:
    """A token without what marks the start, the inside or the end of a word."""
    inside, end = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    return token.removeprefix(inside).removesuffix(end).removeprefix(_WORD_START)


def _is_byte_level(specification: Specification) -> bool:
    nodes = [specification["pre_tokenizer"], specification["normalizer"]]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict) and node.get("type") == "ByteLevel":
            return True
        if isinstance(node, dict):
            nodes += [each for value in node.values() if isinstance(value, list) for each in value]
    return False
