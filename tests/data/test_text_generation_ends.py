"""Ends that tokenizers add themselves, and what templates say of conversations, by any tokenizer."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset
from tiny_language import CHAT, decoder_tokenizer
from tokenizers.processors import ByteLevel, TemplateProcessing
from transformers import PreTrainedTokenizerFast

from distil_nlp.data.tasks import TextGeneration
from distil_nlp.errors import DataError
from distil_nlp.recipe.tasks import TextGenerationSection

SPACED_CHAT = (  # what is marked may begin or end in white space
    "{% for said in messages %}{{ '<|start|>' + said['role'] + '\n' }}{% if said['role'] == 'assistant' %}"
    "{% generation %}{{ 'BEFORE' + said['content'] + '<|end|>AFTER' }}{% endgeneration %}"
    "{% else %}{{ said['content'] + '<|end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
)
STRICT_CHAT = (
    "{% for said in messages %}{% if said['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{{ said['content'] }}{% endfor %}"
)
TALK = [
    {"role": "user", "content": "what does the dog do?"},
    {"role": "assistant", "content": "it barks"},
    {"role": "user", "content": "and the cat?"},
    {"role": "assistant", "content": "it purrs"},
]


def tokenized(columns: dict[str, list[Any]], tokenizer: PreTrainedTokenizerFast, **settings: Any) -> dict[str, Any]:
    values = {"name": "text-generation", "dataset": "here", "max_length": 200, **settings}
    task = TextGeneration(TextGenerationSection.model_validate(values))
    (row,) = task.tokenize(Dataset.from_dict(columns), tokenizer)
    return row


def predicted(row: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> str:
    return str(tokenizer.decode([id_ for id_ in row["labels"] if id_ != -100]))


def enclosing() -> PreTrainedTokenizerFast:
    """A tokenizer that puts a text between two special tokens: these have no place in the text."""
    tokenizer = decoder_tokenizer()
    named = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<|start|>", "<|end|>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|start|> $A <|end|>", special_tokens=named)
    return tokenizer


def test_a_completion_ends_though_the_tokenizer_adds_the_end_itself() -> None:
    tokenizer, columns = enclosing(), {"prompt": ["the dog"], "completion": [" barks"]}
    row = tokenized(columns, tokenizer, prompt="prompt", completion="completion")
    assert tokenizer.decode(row["input_ids"]) == "<|start|>the dog barks<|end|>"
    assert predicted(row, tokenizer) == " barks<|end|>"
    assert predicted(tokenized(columns, decoder_tokenizer(), prompt="prompt", completion="completion"), tokenizer) == (
        " barks<|end|>"
    )


def spaced(before: str, after: str) -> PreTrainedTokenizerFast:
    return decoder_tokenizer(SPACED_CHAT.replace("BEFORE", before).replace("AFTER", after))


@pytest.mark.parametrize(("before", "after"), [("  ", ""), ("", "  "), ("\n", "\n")])
def test_what_a_template_marks_is_predicted_whatever_place_its_spaces_have(before: str, after: str) -> None:
    """Tokens that a tokenizer places without their spaces are no reason to stop, nor to go on to the end."""
    tokenizer = spaced(before, after)
    row = tokenized({"messages": [TALK]}, tokenizer, messages="messages")
    right = tokenizer.apply_chat_template(TALK, return_dict=True, return_assistant_tokens_mask=True)
    assert row["input_ids"] == right["input_ids"]
    assert [int(label != -100) for label in row["labels"]] == right["assistant_masks"]
    assert predicted(row, tokenizer) == "".join(f"{before}{text}<|end|>{after}" for text in ("it barks", "it purrs"))
    tokenizer.backend_tokenizer.post_processor = ByteLevel(trim_offsets=True)
    trimmed = tokenized({"messages": [TALK]}, tokenizer, messages="messages")
    assert trimmed["input_ids"] == row["input_ids"]
    assert "".join(predicted(trimmed, tokenizer).split()) == "itbarks<|end|>itpurrs<|end|>"


@pytest.mark.parametrize("marked", ["", "{% generation %}{% endgeneration %}"], ids=["turns", "generation"])
def test_a_conversation_that_the_template_refuses_is_an_error_that_says_why(marked: str) -> None:
    talk = [{"role": "system", "content": "be brief"}, *TALK]
    with pytest.raises(DataError, match=r"(?s)system, user, assistant.*System role not supported"):
        tokenized({"messages": [talk]}, decoder_tokenizer(STRICT_CHAT + marked), messages="messages")
    assert tokenized({"messages": [TALK]}, decoder_tokenizer(CHAT), messages="messages")
