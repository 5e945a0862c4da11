"""Adapters of PEFT as teachers: what PEFT itself computes, as an ordinary model; and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import batch, tiny_model
from tiny_run import build_tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
)

from distil_nlp.build.loading import Loader
from distil_nlp.errors import DistilError, MissingExtraError, ModelError, UnresolvedReferenceError
from distil_nlp.recipe.sections import ModelReference
from distil_nlp.recipe.teachers import TeacherSection

peft = pytest.importorskip("peft")
NAMES = {0: "sad", 1: "glad", 2: "mad"}


def adapted(folder: Path, base: Path, model: Any, task: str, **config: Any) -> Any:
    """Saves an adapter that changes a model's answers, and gives PEFT's model of it."""
    model.name_or_path = model.config._name_or_path = str(base)
    targets = {"target_modules": ["query", "dense"]} if "bert" in type(model).__name__.lower() else {}
    made = peft.get_peft_model(model, peft.LoraConfig(task_type=task, r=4, **{**targets, **config}))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora" in name or "modules_to_save" in name:
                parameter.normal_(std=0.3)
    made.save_pretrained(folder)
    return made.eval()


@pytest.fixture
def case(tmp_path: Path) -> tuple[Path, Any]:
    """An adapter of a checkpoint without a head, with the head and its labels; and PEFT's own model of it."""
    torch.manual_seed(0)
    base = tmp_path / "base"
    tiny_model("bert", num_labels=2).bert.save_pretrained(base)
    build_tokenizer().save_pretrained(base)
    labels = {"id2label": NAMES, "label2id": {name: index for index, name in NAMES.items()}}
    model = BertForSequenceClassification.from_pretrained(base, **labels)
    expected = adapted(tmp_path / "adapter", base, model, "SEQ_CLS", use_rslora=True)
    (tmp_path / "adapter" / "config.json").write_text(json.dumps({"id2label": NAMES}), encoding="utf-8")
    return tmp_path / "adapter", expected


def load(folder: Path, auto_class: Any = AutoModelForSequenceClassification, **section: Any) -> Any:
    section.setdefault("model", str(folder))
    return Loader(lambda line: None).fine_tuned(TeacherSection(**section), auto_class)


def logits(model: Any, item: str = "example") -> torch.Tensor:
    made = batch(item)
    with torch.no_grad():
        output = model(input_ids=made["input_ids"], attention_mask=made["attention_mask"])
    return output.logits


def test_it_becomes_the_model_that_peft_makes_of_it(case: tuple[Path, Any], tmp_path: Path) -> None:
    folder, expected = case
    model = load(folder)
    assert type(model) is BertForSequenceClassification
    torch.testing.assert_close(logits(model), logits(expected), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits(model), logits(load_base(folder)), atol=1e-2)
    assert model.config.id2label == NAMES
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(logits(again.eval()), logits(model))
    assert not (tmp_path / "saved" / "adapter_config.json").exists()


def load_base(folder: Path) -> Any:
    """The adapter's head on its base, without the low-rank changes."""
    model = BertForSequenceClassification.from_pretrained(folder.parent / "base", num_labels=3).eval()
    saved = load_file(folder / "adapter_model.safetensors")
    state = {name.removeprefix("base_model.model."): value for name, value in saved.items() if "classifier" in name}
    model.load_state_dict(state, strict=False)
    return model


def test_it_can_be_fine_tuned_further_and_take_its_base_from_the_recipe(case: tuple[Path, Any], tmp_path: Path) -> None:
    folder, expected = case
    shutil.move(tmp_path / "base", tmp_path / "moved")
    reference = TeacherSection(model=str(folder), base=str(tmp_path / "moved"), fine_tune={})
    loader = Loader(lambda line: None)
    arguments = {"num_labels": 3, "ignore_mismatched_sizes": True}
    model = loader.model(reference, AutoModelForSequenceClassification, **arguments).eval()
    torch.testing.assert_close(logits(model), logits(expected), rtol=1e-5, atol=1e-5)
    assert loader.tokenizer(reference)("good film")["input_ids"] == build_tokenizer()("good film")["input_ids"]
    build_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "film"]).save_pretrained(folder)  # its own comes first
    assert loader.tokenizer(reference)("good film")["input_ids"] == [2, 1, 4, 3]


@pytest.mark.parametrize(("family", "item"), [("llama", "next_token"), ("gpt2", "next_token"), ("bert", "masked")])
def test_language_models(family: str, item: str, tmp_path: Path) -> None:
    model = tiny_model(family, item, initializer_range=0.2)
    model.save_pretrained(tmp_path / "base")
    task = "CAUSAL_LM" if item == "next_token" else None
    targets = {"gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"], "bert": ["query"]}[family]
    expected = adapted(tmp_path / "adapter", tmp_path / "base", model, task, target_modules=targets, use_dora=True)
    auto_class = AutoModelForCausalLM if item == "next_token" else AutoModelForMaskedLM
    got = load(tmp_path / "adapter", auto_class, dtype="float32")
    torch.testing.assert_close(logits(got, item), logits(expected, item), rtol=1e-4, atol=1e-4)


def changed(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), encoding="utf-8")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"base_model_name_or_path": None}, "(?s)does not say of which.*Give teacher.base"),
        ({"peft_type": "IA3"}, "(?s)Its type is 'IA3'.*Only 'LORA'"),
        ({"peft_type": "LORA", "megatron_config": {"a": 1}}, "megatron_config"),
        ({"base_model_name_or_path": "/nowhere/base"}, "(?s)adapter of '/nowhere/base'.*has no 'nowhere'.*`base`"),
        ({"base_model_name_or_path": "wheel://a==1/m"}, "(?s)adapter of 'wheel://a==1/m'.*sha256"),
        ({"target_modules": ["value"]}, "lora"),
        ({"target_modules": ["no_such_layer"]}, "No modules were targeted"),
        ({"r": 8}, "size mismatch"),
    ],
)
def test_an_adapter_that_does_not_fit(case: tuple[Path, Any], values: dict[str, Any], words: str) -> None:
    changed(case[0], **values)
    with pytest.raises(DistilError, match=words):
        load(case[0])


def test_a_base_with_fewer_layers_is_not_its_base(case: tuple[Path, Any], tmp_path: Path) -> None:
    tiny_model("bert", "masked", num_hidden_layers=2).save_pretrained(tmp_path / "shallow")
    with pytest.raises(ModelError, match=r"(?s)layer\.2.*no place for it"):
        load(case[0], base=str(tmp_path / "shallow"))
    saved = load_file(case[0] / "adapter_model.safetensors")
    lost = next(name for name in saved if "layer.3" in name)
    save_file({n: t for n, t in saved.items() if n != lost}, case[0] / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="the adapter lacks it"):
        load(case[0])


def test_a_head_that_nobody_has_is_no_fine_tuned_teacher(case: tuple[Path, Any]) -> None:
    saved = load_file(case[0] / "adapter_model.safetensors")
    changed(case[0], task_type=None, modules_to_save=None)
    kept = {name: tensor for name, tensor in saved.items() if "classifier" not in name}
    save_file(kept, case[0] / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="classifier"):
        load(case[0])


def test_a_base_that_lacks_a_part_which_the_adapter_does_not_have(case: tuple[Path, Any], tmp_path: Path) -> None:
    tiny_model("bert", "masked").save_pretrained(tmp_path / "without_pooler")
    with pytest.raises(ModelError, match=r"bert\.pooler\.dense\.bias is neither in its base nor in the adapter"):
        load(case[0], base=str(tmp_path / "without_pooler"))


def test_labels_that_nothing_names_do_not_fit(case: tuple[Path, Any]) -> None:
    (case[0] / "config.json").unlink()
    with pytest.raises(ModelError, match=r"(?s)size mismatch.*config\.json beside it"):
        load(case[0])


def test_pickled_weights_are_not_loaded(case: tuple[Path, Any]) -> None:
    weights = case[0] / "adapter_model.safetensors"
    torch.save(load_file(weights), case[0] / "adapter_model.bin")
    weights.unlink()
    with pytest.raises(UnresolvedReferenceError, match="pickle"):
        load(case[0])


def test_only_teachers_can_be_adapters(case: tuple[Path, Any]) -> None:
    with pytest.raises(ModelError, match=r"(?s)Only a teacher.*name the base model"):
        Loader(lambda line: None).model(ModelReference(model=str(case[0])), AutoModelForSequenceClassification)


def test_without_peft(case: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"distil_nlp\[peft\]"):
        load(case[0])
