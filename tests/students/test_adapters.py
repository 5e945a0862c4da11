"""Students with low-rank adapters: only these are trained, and what is saved is an ordinary model."""

import pytest
import torch
from tiny_models import tiny_model
from tiny_objectives import make
from tiny_tokenizers import tiny_tokenizer
from transformers import AutoModelForSequenceClassification, TrainingArguments

from distil_nlp import DistillationTrainer
from distil_nlp.errors import ModelError
from distil_nlp.objectives import Attentions, HiddenStates, LogitsKL, TaskLoss
from distil_nlp.students import add_lora, build_student, merge_adapters, trim_embeddings, trim_vocabulary

pytest.importorskip("peft")


def train(student, teacher, folder, **arguments):
    made = make()
    rows = [{name: values[i] for name, values in made.items()} for i in range(len(made["labels"]))]
    trainer = DistillationTrainer(
        student,
        teacher=teacher,
        objectives=[TaskLoss(), LogitsKL(), HiddenStates(), Attentions()],
        args=TrainingArguments(
            output_dir=str(folder), max_steps=3, learning_rate=1e-2, use_cpu=True, report_to=[], save_strategy="no"
        ),
        train_dataset=rows,
        **arguments,
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("family", ["bert", "distilbert", "llama"])
def test_only_adapters_and_the_head_are_trained(family, tmp_path):
    base, teacher = (tiny_model(family, seed=seed) for seed in (1, 2))
    before = {name: value.clone() for name, value in base.state_dict().items()}
    student = add_lora(base, rank=2)
    trained = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    assert all("lora" in name or "classifier" in name or "score" in name for name in trained)
    train(student, teacher, tmp_path)
    batch = {name: value for name, value in make().items() if name != "labels"}
    student.eval()
    with torch.no_grad():
        expected = student(**batch).logits
    merged = merge_adapters(student)
    assert type(merged) is type(teacher)
    merged.save_pretrained(tmp_path / "merged")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, expected, atol=1e-5, rtol=1e-4)
    changed = {name for name, value in loaded.state_dict().items() if not torch.equal(value, before[name])}
    embeddings = {name for name in before if "embed" in name or "norm" in name.lower()}
    assert changed
    assert not changed & embeddings


def test_a_step_with_adapters_is_the_step_of_the_same_weights_in_full(tmp_path):
    """The gradient of an adapter is what the chain rule makes of the full weight's gradient."""
    torch.manual_seed(0)
    base, teacher = tiny_model(seed=1), tiny_model(seed=2)
    full = tiny_model(seed=1)
    student = add_lora(base, rank=2, alpha=2, target_modules=["query"])
    made, objectives = make(), [LogitsKL(), HiddenStates(), Attentions()]
    for model, terms in ((student, objectives), (full, [LogitsKL(), HiddenStates(), Attentions()])):
        trainer = DistillationTrainer(
            model,
            teacher=teacher,
            objectives=terms,
            args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[]),
        )
        model.eval()  # no dropout
        trainer.compute_loss(model, made).backward()
    name = "bert.encoder.layer.0.attention.self.query"
    layer = student.get_base_model().get_submodule(name)
    gradient = full.get_submodule(name).weight.grad
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.testing.assert_close(b.grad, gradient @ a.T)
    torch.testing.assert_close(a.grad, b.T @ gradient)


def test_a_layer_that_is_not_there(tmp_path):
    with pytest.raises(ModelError, match=r"linear layers of BertForSequenceClassification are named .*query"):
        add_lora(tiny_model(), target_modules=["q_proj"])


@pytest.mark.parametrize(
    "make_of",
    [
        lambda model, _: build_student(model, num_layers=2),
        lambda model, _: build_student(model, intermediate_size=16),
        lambda model, tokenizer: trim_vocabulary(model, tokenizer, ["the film"]),
        lambda model, tokenizer: trim_embeddings(model, tokenizer, tokenizer),
    ],
    ids=["depth", "width", "vocabulary", "embeddings"],
)
def test_a_model_with_adapters_is_refused_where_its_weights_are_taken_over(make_of):
    tokenizer = tiny_tokenizer("wordpiece")
    base = tiny_model(vocab_size=len(tokenizer))
    adapted = add_lora(base, rank=2)
    for model in (adapted, base):  # which has them inside by now
        with pytest.raises(ModelError, match="merge_and_unload"):
            make_of(model, tokenizer)
    make_of(merge_adapters(adapted), tokenizer)
