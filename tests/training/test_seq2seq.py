"""Encoder-decoders: what their predictions are, and that padding and accumulation change nothing."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from tiny_models import tiny_model
from tiny_seq2seq import collate, seq2seq_rows, tiny_seq2seq
from transformers import BartForCausalLM, DataCollatorForSeq2Seq, EncoderDecoderModel, TrainingArguments

from distil_nlp.blocks import describe, is_seq2seq, prediction_item
from distil_nlp.capture import capture, has_plain_vocabulary_head
from distil_nlp.errors import ModelError
from distil_nlp.objectives import Attentions, HiddenStates, LogitsKL, TaskLoss
from distil_nlp.signals import Needs, at_items, item_labels, valid_items
from distil_nlp.students import build_student
from distil_nlp.training import DistillationTrainer

FAMILIES = ["t5", "bart", "m2m_100"]


def shifted(labels, start, pad):
    """The decoder's input, row by row."""
    rows = [[start, *(label if label != -100 else pad for label in row[:-1])] for row in labels.tolist()]
    return torch.tensor(rows)


def own_logits(model, row):
    """One row alone, without padding: what transformers gives for its labels."""
    config, labels = model.config, row["labels"].unsqueeze(0)
    decoder = shifted(labels, config.decoder_start_token_id, config.pad_token_id)
    return model(input_ids=row["input_ids"].unsqueeze(0), decoder_input_ids=decoder).logits[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_labels_are_those_of_each_row_alone(family):
    model, rows = tiny_seq2seq(family), seq2seq_rows()
    batch = collate(rows)
    assert batch["labels"].shape[1] != batch["input_ids"].shape[1]
    assert is_seq2seq(model)
    assert prediction_item(model) == "token"
    with torch.no_grad():
        signals = capture(model, batch, Needs(logits=True))
        expected = torch.cat([own_logits(model, row)[row["labels"] != -100] for row in rows])
    torch.testing.assert_close(at_items(signals.logits, batch, "token"), expected, rtol=1e-4, atol=1e-5)
    labels = torch.cat([row["labels"][row["labels"] != -100] for row in rows])
    assert item_labels(batch, "token").tolist() == labels.tolist()
    assert valid_items(batch, "token").sum() == len(labels)
    shape = describe(model)
    assert (shape.item, shape.num_outputs, shape.num_layers, shape.width) == ("token", 40, 2, 32)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_comes_with_the_same_logits(family):
    model, batch = tiny_seq2seq(family), collate(seq2seq_rows())
    both, alone = capture(model, batch, Needs(logits=True, loss=True)), capture(model, batch, Needs(logits=True))
    torch.testing.assert_close(both.logits, alone.logits)
    mean = F.cross_entropy(at_items(alone.logits, batch, "token"), item_labels(batch, "token"))
    torch.testing.assert_close(both.loss, mean)


def test_inputs_of_the_decoder_that_are_given_are_used():
    model, rows = tiny_seq2seq("bart"), seq2seq_rows()
    batch = collate(rows)
    other = batch["labels"].clamp(min=3).flip(1)
    given = capture(model, {**batch, "decoder_input_ids": other}, Needs(logits=True)).logits
    expected = model(batch["input_ids"], attention_mask=batch["attention_mask"], decoder_input_ids=other).logits
    torch.testing.assert_close(given, expected)
    with_collator = DataCollatorForSeq2Seq(_Pads(), model=model)([_lists(row) for row in rows])
    torch.testing.assert_close(
        capture(model, dict(with_collator), Needs(logits=True)).logits, capture(model, batch, Needs(logits=True)).logits
    )


class _Pads:
    """As much of a tokenizer as a collator asks for."""

    padding_side = "right"
    deprecation_warnings: dict = {}

    def pad(self, rows, **_):
        return collate([{name: torch.tensor(value) for name, value in row.items()} for row in rows])


def _lists(row):
    return {name: value.tolist() for name, value in row.items()}


def test_without_labels_the_decoders_own_positions_count():
    batch = collate(seq2seq_rows())
    batch["decoder_input_ids"] = shifted(batch.pop("labels"), 0, 0)
    assert valid_items(batch, "token").shape == batch["decoder_input_ids"].shape
    assert valid_items(batch, "token").all()
    batch["decoder_attention_mask"] = (torch.arange(11) < 5).long().expand(6, 11)
    assert valid_items(batch, "token").sum(1).tolist() == [5] * 6


def test_an_encoder_with_a_decoder_of_another_kind():
    encoder, decoder = tiny_model(), tiny_model(item="next_token", is_decoder=True, add_cross_attention=True)
    model = EncoderDecoderModel(encoder=encoder.bert, decoder=decoder).eval()
    model.config.decoder_start_token_id, model.config.pad_token_id = 1, 0
    rows = seq2seq_rows()
    with torch.no_grad():
        logits = at_items(capture(model, collate(rows), Needs(logits=True)).logits, collate(rows), "token")
        expected = torch.cat([own_logits(model, row)[row["labels"] != -100] for row in rows])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert describe(model).item == "token"


def test_half_of_an_encoder_decoder_is_not_one():
    decoder = BartForCausalLM(tiny_seq2seq("bart").config)
    assert not is_seq2seq(decoder)
    assert prediction_item(decoder) == "next_token"
    assert not is_seq2seq(tiny_model(item="masked"))


@pytest.mark.parametrize("family", FAMILIES)
def test_their_vocabulary_head_is_never_run_at_items_alone(family):
    """T5 scales what a tied head reads, BART adds a bias to what it gives."""
    assert not has_plain_vocabulary_head(tiny_seq2seq(family))


def make_trainer(folder, family="t5", *, terms=None, student=None, teacher=None, **arguments):
    arguments = {
        "per_device_train_batch_size": 6,
        "max_steps": 1,
        "learning_rate": 1e-2,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        **arguments,
    }
    teacher = teacher or tiny_seq2seq(family, seed=2)
    return DistillationTrainer(
        model=student or build_student(tiny_seq2seq(family, seed=1), num_layers=1),
        teacher=teacher,
        objectives=[TaskLoss(weight=0.3), LogitsKL(weight=0.7, temperature=2.0)] if terms is None else terms,
        args=TrainingArguments(output_dir=str(folder), **arguments),
        train_dataset=seq2seq_rows(),
        eval_dataset=seq2seq_rows(),
        data_collator=collate,
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("micro", [1, 4])
def test_accumulation_is_one_big_batch_in_plain_torch(tmp_path, family, micro):
    """The step against a loop over rows without any padding: cross-entropy and KL, divided by all labels."""
    student, teacher = build_student(tiny_seq2seq(family, seed=1), num_layers=1), tiny_seq2seq(family, seed=2)
    twin = copy.deepcopy(student).train()
    trainer = make_trainer(
        tmp_path,
        student=student,
        teacher=teacher,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=math.ceil(6 / micro),
    )
    trainer.train()
    rows = seq2seq_rows()
    count, hard, soft = sum(int((row["labels"] != -100).sum()) for row in rows), 0.0, 0.0
    for row in rows:
        known = row["labels"] != -100
        logits, target = own_logits(twin, row)[known], own_logits(teacher, row)[known].detach()
        hard = hard + F.cross_entropy(logits, row["labels"][known], reduction="sum") / count
        soft = soft + 4 * F.kl_div((logits / 2).log_softmax(-1), (target / 2).softmax(-1), reduction="sum") / count
    loss = 0.3 * hard + 0.7 * soft
    loss.backward()
    torch.optim.SGD(twin.parameters(), lr=1e-2).step()
    log = trainer.state.log_history[0]
    assert log["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert log["task_loss"] == pytest.approx(0.3 * hard.item(), rel=1e-5)
    assert log["logits_kl"] == pytest.approx(0.7 * soft.item(), rel=1e-5)
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_it_evaluates(tmp_path):
    trainer = make_trainer(tmp_path)
    rows, model = seq2seq_rows(), trainer.model
    known = [row["labels"] != -100 for row in rows]
    losses = [
        F.cross_entropy(own_logits(model, row)[mask], row["labels"][mask], reduction="sum")
        for row, mask in zip(rows, known, strict=True)
    ]
    trainer.objectives = torch.nn.ModuleList([TaskLoss()])
    trainer.objectives[0].bind(describe(model), None)
    expected = torch.stack(losses).sum() / sum(mask.sum() for mask in known)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("term", [HiddenStates, Attentions])
def test_what_is_inside_is_refused_before_training(tmp_path, term):
    with pytest.raises(ModelError, match="two: its encoder's and its decoder's") as error:
        make_trainer(tmp_path, terms=[term()])
    assert "task_loss" in str(error.value)
