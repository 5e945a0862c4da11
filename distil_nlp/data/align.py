"""Whether teacher, student, tokenizer and data speak of the same labels and the same tokens."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from distil_nlp.errors import ModelError, listed
from distil_nlp.label_names import as_compared, names_by_id, unnamed

# Their positions start after the padding id, so that many rows of the position table are never used.
_OFFSET_POSITIONS = {
    "camembert",
    "data2vec-text",
    "ibert",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}
_PROBE = "The Quick brown fox's naïve café — 12,345 tokens?\n  Straße 北京 🙂"


def align_labels(teacher_config: PretrainedConfig, label_names: Sequence[str], *, classes: bool = True) -> None:
    """Checks that the teacher's label ids mean what the data's do; the case of the names may differ.

    Args:
        teacher_config: The teacher's configuration.
        label_names: The names of the data's label ids, in their order.
        classes: Whether the recipe's `classes` can name and order the data's labels.

    Raises:
        ModelError: The number, the names or the order of the labels differ, or the teacher's have no names.
    """
    teacher, data = list(names_by_id(teacher_config).values()), list(label_names)
    theirs, ours = as_compared(teacher, data)
    if theirs == ours:
        return
    asked = "The labels of the teacher and of the data do not agree."
    found = f"Teacher: {_numbered(teacher)}. Data: {_numbered(data)}."
    own_head = "or give the teacher a head of its own for this data (`fine_tune`)"
    if len(teacher) == len(data) and unnamed(teacher):
        fix = (
            "The teacher's labels have no names, so nothing says which is which. Set id2label and label2id in"
            f" its config.json, {own_head}."
        )
    elif sorted(theirs) == sorted(ours):
        how = (
            "Give the recipe's `classes` in the teacher's order (each name with its rule, or with the data's label)"
            if classes
            else "List them in the teacher's order, as the label_names of a meta.json in the data's folder"
        )
        fix = f"They are the same in another order. {how}, {own_head}."
    else:
        more = set(ours) < set(theirs)  # and a class that no row fits cannot be in `classes`
        how = (
            f'by the recipe\'s `classes` (`classes: {{{teacher[0] if teacher else "name"}: "{data[0]}", ...}}`)'
            if classes and not more
            else "as the label_names of a meta.json in the data's folder, which may have labels that no row has"
        )
        fix = f"Name the data's labels as the teacher does, in its order, {how}, {own_head}."
    raise ModelError(asked, found, fix)


def check_tokenizer_fits(
    tokenizer: PreTrainedTokenizerBase,
    model_config: PretrainedConfig,
    *,
    max_length: int | None = None,
    key: str = "max_length",
) -> None:
    """Checks that token ids have embeddings, rows can be padded, and ``max_length`` tokens have positions.

    Args:
        tokenizer: The rows' tokenizer.
        model_config: The model's configuration.
        max_length: Most tokens that a row may have.
        key: What the recipe calls that.

    Raises:
        ModelError: One of these does not hold.
    """
    config = model_config.get_text_config()
    name = tokenizer.name_or_path or type(tokenizer).__name__
    asked = f"The tokenizer '{name}' does not fit the model ({config.model_type})."
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= config.vocab_size:
        raise ModelError(
            asked,
            f"Its token ids go up to {highest}, and the model has {config.vocab_size} embeddings (from 0).",
            "Use the tokenizer that was saved with the model, or resize the model's embeddings.",
        )
    if tokenizer.pad_token_id is None:
        raise ModelError(
            asked,
            "It has no padding token.",
            "Set one and save it: tokenizer.pad_token = tokenizer.eos_token; tokenizer.save_pretrained(DIR).",
        )
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or max_length is None:
        return
    if config.model_type in _OFFSET_POSITIONS:
        positions -= (config.pad_token_id or 0) + 1
    if max_length > positions:
        raise ModelError(
            f"Cannot use {key} {max_length}.",
            f"The model ({config.model_type}) has positions for {positions} tokens.",
            f"Set `{key}` to {positions} or less.",
        )


def check_fast(tokenizer: PreTrainedTokenizerBase, asked: str) -> None:
    """Checks that a tokenizer says where in a text its tokens are.

    Args:
        tokenizer: The tokenizer.
        asked: What that is needed for.

    Raises:
        ModelError: It does not.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            asked,
            f"{type(tokenizer).__name__} does not say which token belongs to which part of a text.",
            "Use a model with a fast tokenizer (a tokenizer.json).",
        )


def check_same_tokenizer(
    teacher_tokenizer: PreTrainedTokenizerBase,
    student_tokenizer: PreTrainedTokenizerBase,
    *,
    roles: tuple[str, str] = ("teacher", "student"),
) -> None:
    """Checks that teacher and student, or two teachers, cut a text into the same tokens, with the same ids.

    Args:
        teacher_tokenizer: The teacher's.
        student_tokenizer: The student's.
        roles: What the two models are, for messages.

    Raises:
        ModelError: They do not, so that their positions and vocabularies cannot be compared.
    """
    teacher, student = teacher_tokenizer.get_vocab(), student_tokenizer.get_vocab()
    if teacher != student:
        differing = sorted(
            token for token in teacher.keys() | student.keys() if teacher.get(token) != student.get(token)
        )
        token = differing[0]
        found = (
            f"{len(differing)} tokens differ, of {len(teacher)} ({roles[0]}) and {len(student)} ({roles[1]}):"
            f" {token!r} has the id {teacher.get(token)} in the one and {student.get(token)} in the other."
        )
    elif teacher_tokenizer(_PROBE)["input_ids"] != student_tokenizer(_PROBE)["input_ids"]:
        found = "They have the same tokens, but cut texts differently (case, accents or special tokens)."
    else:
        return
    raise ModelError(
        f"The {roles[0]} and the {roles[1]} have different tokenizers.",
        found,
        "Make the student from the teacher (`student: {num_layers: ...}`), which keeps its tokenizer, or"
        " choose a student checkpoint with the teacher's tokenizer."
        if roles[1] == "student"
        else "Choose another checkpoint: all members of an ensemble read the same batches.",
    )


def _numbered(names: Sequence[str]) -> str:
    return listed([f"{index} {name}" for index, name in enumerate(names)], 12)


def fit_padding(model_config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Names the token that pads rows in a model's configuration, by which decoders find a row's last token.

    Where its positions begin after the padding, and of encoder-decoders, it is left as it is, if it is named.
    """
    kept = model_config.model_type in _OFFSET_POSITIONS or model_config.is_encoder_decoder
    if model_config.pad_token_id is None or not kept:
        model_config.pad_token_id = tokenizer.pad_token_id
