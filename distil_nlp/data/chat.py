"""Conversations as tokens, and which of these an assistant has said."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from datasets import Dataset
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from distil_nlp.data.align import check_fast
from distil_nlp.errors import DataError, ModelError, first_line

Messages = Sequence[dict[str, Any]]

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")  # as transformers looks for it
_ASKED = "What an assistant says is to be predicted, and nothing else of a conversation."


def conversations(rows: Dataset, settings: Any) -> list[Messages]:
    """The conversations of a column; empty where there is none.

    Args:
        rows: Rows as found.
        settings: The ``task`` section of the recipe.

    Raises:
        DataError: The column does not hold lists of messages.
    """
    found = rows[settings.messages][:]
    for row, messages in enumerate(found):
        if messages is not None and not (isinstance(messages, list) and all(map(_is_message, messages))):
            raise DataError(
                f"The column '{settings.messages}' of '{settings.dataset}' does not hold conversations.",
                f"Row {row + 1} has {messages!r}.",
                'Write [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}] in each row.',
            )
    return [messages or [] for messages in found]


def has_answer(messages: Messages) -> bool:
    """Whether an assistant says something after somebody else has."""
    return any(said["role"] == "assistant" and said["content"].strip() for said in messages[1:])


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Checks that a tokenizer can make text of a conversation.

    Raises:
        ModelError: It has no template for that, or is not a fast one.
    """
    check_fast(tokenizer, _ASKED)
    if not tokenizer.chat_template:
        raise ModelError(
            _ASKED,
            f"{type(tokenizer).__name__} has no chat template.",
            "Use an instruction-tuned teacher, or columns with `prompt` and `completion`.",
        )


def chat_text(tokenizer: PreTrainedTokenizerBase, messages: Messages, **arguments: Any) -> str:
    """A conversation as the tokenizer's template writes it.

    Raises:
        DataError: The template refuses it.
    """
    with _refusals(tokenizer, messages):
        return str(tokenizer.apply_chat_template(_said(messages), tokenize=False, **arguments))


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation, and which of them an assistant says, the end of its turn among them.

    A template with ``{% generation %}`` says which. Of any other, a turn is what it adds to the text of the messages
    before it and the header that asks for an answer.

    Args:
        tokenizer: A fast one, with a chat template.
        messages: With ``role`` and ``content``.

    Raises:
        DataError: The template refuses the conversation.
        ModelError: The template writes early messages in another way once there are later ones.
    """
    if _GENERATION.search(str(tokenizer.get_chat_template())):
        whole, spans = _marked(tokenizer, messages)
    else:
        whole = chat_text(tokenizer, messages)
        spans = [_turn(tokenizer, messages, at, whole) for at in range(1, len(messages)) if _speaks(messages[at])]
    found = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    said = [any(first < end and start < last for first, last in spans) for start, end in found["offset_mapping"]]
    return list(found["input_ids"]), said


@contextmanager
def _refusals(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> Iterator[None]:
    try:
        yield
    except TemplateError as error:
        raise DataError(
            f"Conversations are written by the chat template of {type(tokenizer).__name__}.",
            f"It refuses one by {', '.join(said['role'] for said in messages)}: {first_line(error)}",
            "Leave out or rewrite what it has no place for (some know no system messages, or want turns to alternate).",
        ) from error


def _marked(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> tuple[str, list[tuple[int, int]]]:
    """The text of a conversation, and where in it the template says that an assistant speaks.

    The mask that transformers makes of this goes wrong where a part begins or ends in white space that its tokenizer
    leaves out of a token's place: it then breaks off, or goes on to the end of the text.
    """
    names: dict[str, Any] = dict(tokenizer.special_tokens_map)
    with _refusals(tokenizer, messages):
        rendered: Any = render_jinja_template(
            [_said(messages)],
            chat_template=tokenizer.get_chat_template(),
            return_assistant_tokens_mask=True,
            **names,
        )
    (whole,), (spans,) = rendered
    return whole, spans


def _turn(tokenizer: PreTrainedTokenizerBase, messages: Messages, at: int, whole: str) -> tuple[int, int]:
    """Where in the text of a conversation a message of its assistant begins and ends."""
    before = chat_text(tokenizer, messages[:at], add_generation_prompt=True)
    through = chat_text(tokenizer, messages[: at + 1]).rstrip()
    if not (through.startswith(before) and whole.startswith(through)):
        raise ModelError(
            _ASKED,
            f"The chat template of {type(tokenizer).__name__} does not say which text that is: its text of the first "
            f"{at + 1} messages is not how its text of all of them begins.",
            "Put {% generation %} and {% endgeneration %} around what the assistant writes in its chat_template.",
        )
    return len(before), len(through)


def _said(messages: Messages) -> list[dict[str, Any]]:
    """Messages without the keys that they lack, which data sets fill with None."""
    return [{key: value for key, value in said.items() if value is not None} for said in messages]


def _speaks(said: dict[str, Any]) -> bool:
    return bool(said["role"] == "assistant")


def _is_message(said: Any) -> bool:
    return isinstance(said, dict) and isinstance(said.get("role"), str) and isinstance(said.get("content"), str)
