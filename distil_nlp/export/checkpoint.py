"""The checkpoint folder that is exported: its model, and the files that travel with the ONNX graph."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel

from distil_nlp.errors import ExportError, near_match

AUTO_CLASSES = {
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "question-answering": "AutoModelForQuestionAnswering",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "text2text-generation-with-past": "AutoModelForSeq2SeqLM",
    "text-classification": "AutoModelForSequenceClassification",
    "text-generation": "AutoModelForCausalLM",
    "text-generation-with-past": "AutoModelForCausalLM",
    "token-classification": "AutoModelForTokenClassification",
}

# All that is needed beside the graph by onnxruntime with tokenizers, by transformers and by transformers.js.
_COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab*.json",
    "*_vocab.json",
    "merges.txt",
    "bpe.codes",
    "dict.txt",
    "*.model",
    "*.spm",
    "*.tokenizer",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    "modules.json",  # how sentence-transformers reads a text and pools
    "1_Pooling/config.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
)


def check_checkpoint(model_dir: Path, task: str) -> None:
    """Checks, before anything is loaded, that a folder can be exported for a task.

    Raises:
        ExportError: The task has no exporter, or the folder has no config.json or no safetensors weights.
    """
    if task not in AUTO_CLASSES:
        raise ExportError(f"Export a model for the task '{task}'.", near_match(task, AUTO_CLASSES))
    missing = [name for name in ("config.json", "*.safetensors") if not any(model_dir.glob(name))]
    if missing:
        adapted = (model_dir / "adapter_config.json").exists()  # what a trainer saves of a student with adapters
        raise ExportError(
            f"Export the checkpoint {model_dir}.",
            f"It has {'adapters, and ' if adapted else ''}no {' and no '.join(missing)}.",
            "Merge them first, and give that folder: distil_nlp.students.merge_adapters(student).save_pretrained(DIR)."
            if adapted
            else "Give a folder written by save_pretrained.",
        )


def load_checkpoint(model_dir: Path, task: str) -> PreTrainedModel:
    """Loads the model that the export must equal: float32, in evaluation mode, safetensors only.

    Raises:
        ExportError: transformers cannot load it, or some weights are missing from the checkpoint.
    """
    auto = getattr(transformers, AUTO_CLASSES[task])
    asked = f"Load {model_dir} for {task}."
    try:
        model, loading = auto.from_pretrained(
            model_dir,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ExportError(asked, str(error), "Give a checkpoint that was saved for this task.") from error
    if loading["missing_keys"]:
        raise ExportError(
            asked,
            f"The checkpoint lacks {', '.join(sorted(loading['missing_keys'])[:5])}: "
            "transformers would fill them with random numbers.",
            "Give a checkpoint that was trained for this task.",
        )
    return model.eval()


def copy_companions(model_dir: Path, output_dir: Path) -> None:
    """Copies config and tokenizer, as they were saved, beside the graph."""
    for pattern in _COMPANIONS:
        for path in model_dir.glob(pattern):
            copy = output_dir / path.relative_to(model_dir)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
