"""A teacher that a recipe names as fine-tuned already must be one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_models import tiny_model
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from distil_nlp.build.loading import Loader
from distil_nlp.errors import ModelError

CLASSES = {
    "example": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
    "span": AutoModelForQuestionAnswering,
    "masked": AutoModelForMaskedLM,
    "next_token": AutoModelForCausalLM,
}
CASES = [
    *(("bert", item) for item in ("example", "token", "span", "masked")),
    ("distilbert", "masked"),
    ("roberta", "example"),
    ("gpt2", "next_token"),
    ("gpt2", "example"),
    ("llama", "next_token"),
]


def fine_tuned(folder: Path, auto_class: Any) -> Any:
    reference = SimpleNamespace(model=str(folder), sha256=None, revision=None)
    return Loader(lambda line: None).fine_tuned(reference, auto_class)


@pytest.mark.parametrize(("family", "item"), CASES)
def test_a_checkpoint_with_its_head_is_taken_and_one_without_is_not(tmp_path: Path, family: str, item: str) -> None:
    model = tiny_model(family, item)
    model.save_pretrained(tmp_path / "whole")
    model.base_model.save_pretrained(tmp_path / "headless")
    weights = fine_tuned(tmp_path / "whole", CLASSES[item]).state_dict()
    assert all(tensor.equal(weights[name]) for name, tensor in model.state_dict().items())
    if (family, item) == ("gpt2", "next_token"):  # its head is its embedding
        fine_tuned(tmp_path / "headless", CLASSES[item])
        return
    with pytest.raises(ModelError, match=r"(?s)fine-tuned already.*is not in it.*fine_tune"):
        fine_tuned(tmp_path / "headless", CLASSES[item])


def test_a_model_without_a_head_needs_none(tmp_path: Path) -> None:
    """As for embeddings, though its pooler, which nobody asks, is new."""
    tiny_model("bert", "masked").save_pretrained(tmp_path)
    fine_tuned(tmp_path, AutoModel)
