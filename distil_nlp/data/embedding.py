"""How a text's embedding is made of a model's hidden states, as ``sentence-transformers`` notes it beside a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from distil_nlp.errors import ModelError

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
TRANSFORMER = "sentence_bert_config.json"
POOLING = "1_Pooling/config.json"

_KINDS = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
_MODES = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
# The names of modes until sentence-transformers 6, each with a value true or false; later versions read them, too.
_FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


class Embedding(NamedTuple):
    """How hidden states become one vector.

    Attributes:
        pooling: ``mean``, ``cls`` or ``last`` (:func:`~distil_nlp.functional.pooling.pool`).
        normalize: Whether the vector is scaled to length 1.
    """

    pooling: str = "mean"
    normalize: bool = False


def read_embedding(read_json: Callable[[str], Any]) -> Embedding | None:
    """Reads how a model's embeddings are made; None for a model that was not saved by ``sentence-transformers``.

    Args:
        read_json: Reads a file that lies beside the weights; None where there is none.

    Raises:
        ModelError: They are made in a way that is not among the poolings.
    """
    modules = read_json(MODULES)
    if modules is None:
        return None
    if not isinstance(modules, list) or not all(isinstance(m, dict) and {"type", "path"} <= m.keys() for m in modules):
        raise _unlike(f"{MODULES} is not a list of modules, each with a type and a path.")
    kinds = [str(module["type"]) for module in modules]
    steps = [kind.rpartition(".")[2] for kind in kinds]
    known = all(kind.startswith("sentence_transformers.") for kind in kinds)
    if not known or steps not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise _unlike(f"{MODULES} lists {', '.join(kinds)}.")
    _check_text(read_json(SETTINGS) or {}, read_json(TRANSFORMER) or {})
    config = read_json(f"{modules[1]['path']}/config.json") or {}
    given = config.get("pooling_mode") or [mode for flag, mode in _FLAGS.items() if config.get(flag)] or "mean"
    modes = [given] if isinstance(given, str) else list(given)
    if len(modes) != 1 or modes[0] not in _MODES:
        raise _unlike(f"They are pooled by {', '.join(map(str, modes))}.")
    return Embedding(_MODES[modes[0]], "Normalize" in steps)


def _check_text(settings: Mapping[str, Any], transformer: Mapping[str, Any]) -> None:
    """Refuses what changes a text before it is tokenized."""
    default = settings.get("default_prompt_name")
    prompt = (settings.get("prompts") or {}).get(default)
    if prompt:
        raise _unlike(f"The prompt {prompt!r} is put before each text ({SETTINGS}).")
    if transformer.get("do_lower_case"):
        raise _unlike(f"Texts are put into lower case first ({TRANSFORMER}).")


def _unlike(found: str) -> ModelError:
    return ModelError(
        "The teacher's folder says how its embeddings are made, in a way that is not supported.",
        found,
        "Give both task.pooling (mean, cls or last) and task.normalize: the folder is then not asked, and embeddings "
        "are made of its last hidden state and of the texts as they are.",
    )


def embedding_files(embedding: Embedding, *, width: int, max_length: int) -> dict[str, Any]:
    """The JSON files, by path, from which ``sentence_transformers.SentenceTransformer`` loads a checkpoint's folder.

    Args:
        embedding: How its embeddings are made.
        width: Their width.
        max_length: Tokens of a text; longer ones are cut.
    """
    steps = list(_KINDS.items())[: 3 if embedding.normalize else 2]
    return {
        MODULES: [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (kind, path) in enumerate(steps)
        ],
        SETTINGS: {"model_type": "SentenceTransformer", "prompts": {}, "similarity_fn_name": "cosine"},
        TRANSFORMER: {"max_seq_length": max_length, "do_lower_case": False},
        POOLING: {
            "word_embedding_dimension": width,
            **{flag: _MODES.get(mode) == embedding.pooling for flag, mode in _FLAGS.items()},
        },
    }
