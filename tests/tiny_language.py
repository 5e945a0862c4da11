"""Tokenizers of language models, trained on the spot, and texts with something to learn."""

from __future__ import annotations

import random

from tiny_tokenizers import SPECIAL, TRAINING_TEXTS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CHAT = (
    "{% for said in messages %}{{ '<|start|>' + said['role'] + '\n' + said['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
MARKED_CHAT = (
    "{% for said in messages %}{{ '<|start|>' + said['role'] + '\n' }}{% if said['role'] == 'assistant' %}"
    "{% generation %}{{ said['content'] + '<|end|>' }}{% endgeneration %}{% else %}{{ said['content'] + '<|end|>' }}"
    "{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
FORGETFUL_CHAT = (  # only the last answer is written, as by templates that drop earlier thoughts
    "{% for said in messages %}{{ '<|start|>' + said['role'] + '\n' }}"
    "{% if said['role'] == 'user' or loop.last %}{{ said['content'] }}{% endif %}{{ '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
ENCODERS_OWN = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")


def decoder_tokenizer(chat_template: str | None = CHAT) -> PreTrainedTokenizerFast:
    """Byte-level BPE as GPT-2 has it: it adds nothing to a text, and pads with the end of text."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=["<|end|>", "<|start|>"], initial_alphabet=alphabet)
    made.train_from_iterator([*TRAINING_TEXTS, *texts(40)], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", pad_token="<|end|>")
    wrapped.chat_template = chat_template
    return wrapped


def encoder_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each word of the texts, as BERT puts them between special tokens."""
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *sorted({word for text in texts(900) for word in text.split()}),
    ]
    made = Tokenizer(models.WordLevel({word: id_ for id_, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(tokenizer_object=made, **{name: SPECIAL[name] for name in ENCODERS_OWN})


def texts(count: int, seed: int = 0) -> list[str]:
    """Sentences whose verb follows from their noun."""
    dice = random.Random(seed)
    pairs = {"dog": "barks", "cat": "purrs", "cow": "moos", "bee": "hums"}
    made = []
    for _ in range(count):
        nouns = dice.choices(list(pairs), k=dice.randint(1, 4))
        made.append(" and ".join(f"the {noun} {pairs[noun]} at {dice.randint(0, 99)}" for noun in nouns))
    return made
