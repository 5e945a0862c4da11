"""The vocabulary head is run by the loss, a few items at a time, and nothing else changes."""

import copy

import pytest
import torch
import torch.nn.functional as F
from test_trainer import NO_DROPOUT, make_trainer, trained_weights
from tiny_models import batch, tiny_model
from transformers import BertForMaskedLM, Gemma2Config, Gemma2ForCausalLM, MixtralConfig, MixtralForCausalLM

from distil_nlp.blocks import describe
from distil_nlp.capture import capture, has_plain_vocabulary_head
from distil_nlp.errors import ModelError
from distil_nlp.objectives import HiddenStates, LogitsKL, Objective, TaskLoss, vocabulary
from distil_nlp.signals import Needs

MASKED = ("bert", "roberta", "distilbert", "electra", "albert", "modernbert", "deberta-v2")
CAUSAL = ("gpt2", "llama")
FAMILIES = [*((family, "masked") for family in MASKED), *((family, "next_token") for family in CAUSAL)]


def naive(student, teacher, made, item):
    """0.5 CE + 0.7 KL at T = 2 over whole logits, with torch's own losses."""
    inputs = {key: made[key] for key in ("input_ids", "attention_mask")}
    ours, theirs, labels = student(**inputs).logits, teacher(**inputs).logits.detach(), made["labels"]
    if item == "next_token":
        ours, theirs, labels = ours[:, :-1], theirs[:, :-1], labels[:, 1:]
    keep = labels != -100
    soft = F.kl_div(F.log_softmax(ours[keep] / 2, -1), F.softmax(theirs[keep] / 2, -1), reduction="batchmean") * 4
    return 0.5 * F.cross_entropy(ours[keep], labels[keep]) + 0.7 * soft


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def both_at_work(model):
    """In training, as far as the trainer can see, but without dropout."""
    model.eval().training = True
    return model


@pytest.mark.parametrize(("family", "item"), FAMILIES)
@pytest.mark.parametrize("rows", [3, 10_000])
def test_loss_and_gradients_are_those_of_whole_logits(tmp_path, monkeypatch, family, item, rows):
    monkeypatch.setattr(vocabulary, "CHUNK_BYTES", rows * 4 * 64)
    student, teacher = tiny_model(family, item, seed=1), tiny_model(family, item, seed=2)
    twin = copy.deepcopy(student)
    terms = [TaskLoss(weight=0.5), LogitsKL(temperature=2.0, weight=0.7)]
    trainer = make_trainer(tmp_path, item=item, student=student, teacher=teacher, terms=terms)
    assert trainer.needs[True] == (Needs(vocabulary=True), Needs(vocabulary=True))
    loss = trainer.compute_loss(both_at_work(student), batch(item))
    loss.backward()
    expected = naive(twin, teacher, batch(item), item)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    ours, theirs = gradients(student), gradients(twin)
    assert ours.keys() == theirs.keys()
    for name, grad in theirs.items():
        torch.testing.assert_close(ours[name], grad, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(("family", "item"), [("bert", "masked"), ("gpt2", "next_token")])
def test_micro_batches_are_one_big_batch(tmp_path, family, item):
    dropout = NO_DROPOUT if family == "bert" else {"resid_pdrop": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0}
    trained, logs = [], []
    for size, steps in ((8, 1), (3, 3)):
        trainer = make_trainer(
            tmp_path,
            item=item,
            student=tiny_model(family, item, seed=1, **dropout),
            teacher=tiny_model(family, item, seed=2),
            terms=[TaskLoss(weight=0.5), LogitsKL(weight=0.7), HiddenStates(mapping={-1: -1})],
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
        )
        trained.append(trained_weights(trainer))
        logs.append(trainer.state.log_history[0])
    for name, tensor in trained[0].items():
        torch.testing.assert_close(trained[1][name], tensor, rtol=1e-5, atol=1e-7)
    for name in ("loss", "task_loss", "logits_kl", "hidden_states"):
        assert logs[1][name] == pytest.approx(logs[0][name], rel=1e-5)
    assert sum(logs[0][name] for name in ("task_loss", "logits_kl", "hidden_states")) == pytest.approx(logs[0]["loss"])


def test_vocabularies_of_unequal_size_share_their_first_rows(tmp_path):
    student, teacher = tiny_model("gpt2", "next_token", seed=1), tiny_model("gpt2", "next_token", seed=2, vocab_size=65)
    trainer = make_trainer(tmp_path, item="next_token", student=student, teacher=teacher, terms=[LogitsKL()])
    made = batch("next_token")
    keep = made["labels"][:, 1:] != -100
    inputs = {key: made[key] for key in ("input_ids", "attention_mask")}
    ours, theirs = (model(**inputs).logits[:, :-1][keep][:, :64] / 2 for model in (student, teacher))
    twin = F.kl_div(F.log_softmax(ours, -1), F.softmax(theirs, -1), reduction="batchmean") * 4
    torch.testing.assert_close(trainer.compute_loss(both_at_work(student), made), twin)


def test_a_batch_without_items_costs_nothing(tmp_path):
    student = tiny_model("bert", "masked", seed=1)
    terms = [TaskLoss(), LogitsKL()]
    trainer = make_trainer(tmp_path, student=student, teacher=tiny_model("bert", "masked", seed=2), terms=terms)
    made = batch("masked")
    made["labels"] = torch.full_like(made["labels"], -100)
    loss = trainer.compute_loss(both_at_work(student), made)
    loss.backward()
    assert loss == 0
    assert all(not grad.any() for grad in gradients(student).values())


class Sharpness(Objective):
    """An objective of somebody else's, which reads whole logits."""

    name = "sharpness"

    def __init__(self):
        super().__init__()
        self.student_needs = Needs(logits=True)

    def count(self, batch):
        return torch.tensor(1)

    def values(self, student, teacher, batch):
        return student.logits.square().mean().reshape(1)


def test_who_wants_whole_logits_gets_them(tmp_path):
    student = tiny_model("bert", "masked", seed=1)
    terms = [LogitsKL(), Sharpness()]
    trainer = make_trainer(tmp_path, student=student, teacher=tiny_model("bert", "masked", seed=2), terms=terms)
    assert not trainer.needs[True][0].vocabulary
    assert trainer.compute_loss(both_at_work(student), batch("masked")) > 0


def test_a_head_that_does_more_than_one_linear_layer_is_told_apart():
    model = tiny_model("gpt2", "next_token")
    assert has_plain_vocabulary_head(model)
    forward = type(model).forward

    def capped(*args, **kwargs):
        output = forward(model, *args, **kwargs)
        output.logits = torch.tanh(output.logits) * 0.1
        return output

    model.forward = capped
    assert not has_plain_vocabulary_head(model)


SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "pad_token_id": 0,
}


def test_logits_that_bend_when_they_are_large_are_told_apart(tmp_path):
    model = Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=30.0))
    assert not has_plain_vocabulary_head(model)
    assert has_plain_vocabulary_head(Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=None)))
    trainer = make_trainer(tmp_path, student=model, teacher=None, terms=[TaskLoss()])
    with torch.no_grad():
        model.model.norm.weight.add_(40.0)
    torch.testing.assert_close(
        trainer.compute_loss(both_at_work(model), batch("next_token")), model(**batch("next_token")).loss
    )


def test_the_loss_that_balances_experts_is_in_the_task_loss(tmp_path):
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.5}
    model = MixtralForCausalLM(MixtralConfig(**SMALL, **experts, output_router_logits=True))
    assert not has_plain_vocabulary_head(model)
    trainer = make_trainer(tmp_path, student=model, teacher=None, terms=[TaskLoss()])
    expected = model(**batch("next_token"))
    assert expected.aux_loss > 0
    torch.testing.assert_close(trainer.compute_loss(both_at_work(model), batch("next_token")), expected.loss)


def test_a_class_derived_from_one_of_transformers_has_its_head(tmp_path):
    class Mine(BertForMaskedLM):
        pass

    model = Mine(tiny_model("bert", "masked").config)
    assert has_plain_vocabulary_head(model)
    assert describe(model).item == "token"


def test_a_teacher_whose_head_is_not_plain_gives_logits(tmp_path, monkeypatch):
    student, teacher = tiny_model("bert", "masked", seed=1), tiny_model("bert", "masked", seed=2)
    trainer = make_trainer(tmp_path, student=student, teacher=teacher, terms=[LogitsKL()])
    expected = trainer.compute_loss(both_at_work(student), batch("masked"))
    trainer.teacher._gives_vocabulary = False
    signals = trainer.teacher(batch("masked"), trainer.needs[True][1])
    assert signals.vocabulary is None
    assert signals.logits.shape == (4, 12, 64)
    torch.testing.assert_close(trainer.compute_loss(both_at_work(student), batch("masked")), expected)


def test_label_smoothing_is_torchs(tmp_path):
    student = tiny_model("bert", "masked", seed=1)
    trainer = make_trainer(tmp_path, student=student, teacher=False, terms=[TaskLoss()], label_smoothing_factor=0.1)
    made = batch("masked")
    keep = made["labels"] != -100
    logits = student(made["input_ids"], made["attention_mask"]).logits[keep]
    twin = F.cross_entropy(logits, made["labels"][keep], label_smoothing=0.1)
    torch.testing.assert_close(trainer.compute_loss(both_at_work(student), made), twin)


def test_bfloat16_is_finite_and_evaluation_sees_whole_logits(tmp_path):
    student, teacher = (tiny_model("gpt2", "next_token", seed=seed).bfloat16() for seed in (1, 2))
    trainer = make_trainer(tmp_path, student=student, teacher=teacher, terms=[TaskLoss(), LogitsKL()])
    made = batch("next_token")
    loss = trainer.compute_loss(both_at_work(student), made)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert all(torch.isfinite(grad).all() for grad in gradients(student).values())
    _, output = trainer.compute_loss(student.eval(), made, return_outputs=True)
    assert output.logits.shape == (4, 12, 64)


def test_the_loss_is_differentiated_once(tmp_path):
    student = tiny_model("bert", "masked", seed=1)
    trainer = make_trainer(tmp_path, student=student, teacher=tiny_model("bert", "masked", seed=2), terms=[LogitsKL()])
    loss = trainer.compute_loss(both_at_work(student), batch("masked"))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


def test_hidden_states_are_those_of_all_tokens():
    model = tiny_model("bert", "masked")
    seen = capture(model, batch("masked"), Needs(vocabulary=True, hidden_states=frozenset({4})))
    assert seen.hidden_states[4].shape == (4, 12, 32)
    assert seen.vocabulary.inputs.shape == (int((batch("masked")["labels"] != -100).sum()), 32)


def test_predictions_of_labelled_tokens_alone_are_refused_of_a_student(tmp_path):
    """With labels, ModernBERT then gives ``[labelled, vocab]``; a teacher is given none."""
    sparse = tiny_model("modernbert", "masked", seed=1, sparse_prediction=True)
    assert not has_plain_vocabulary_head(sparse)
    plain = tiny_model("modernbert", "masked", seed=2)
    for terms in ([TaskLoss()], [TaskLoss(), LogitsKL()], [LogitsKL()]):
        with pytest.raises(ModelError, match=r"(?s)ModernBertForMaskedLM.*sparse_prediction=False"):
            make_trainer(tmp_path, student=sparse, teacher=plain, terms=terms)
    trainer = make_trainer(tmp_path, student=plain, teacher=sparse, terms=[TaskLoss(), LogitsKL()])
    twin = make_trainer(
        tmp_path,
        student=plain,
        teacher=tiny_model("modernbert", "masked", seed=1),
        terms=[TaskLoss(), LogitsKL()],
    )
    made = batch("masked")
    torch.testing.assert_close(trainer.compute_loss(plain, made), twin.compute_loss(plain, made))
