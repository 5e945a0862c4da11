"""Rows that hold several sequences one after the other: as if each were a row of its own, or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_trainer import make_trainer
from tiny_models import VOCAB, tiny_model
from transformers import DataCollatorWithFlattening

from distil_nlp.errors import DataError
from distil_nlp.objectives import (
    CKA,
    PKT,
    RKD,
    Attentions,
    ClsStates,
    Gram,
    HiddenStates,
    LogitsKL,
    MiniLMv2,
    SentenceEmbeddings,
    TaskLoss,
)
from distil_nlp.signals import Needs

LENGTHS = (7, 9, 5, 6)


def sequences() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(5, VOCAB, (length,), generator=generator) for length in LENGTHS]


def padded() -> dict[str, torch.Tensor]:
    ids, mask = torch.zeros(4, 9, dtype=torch.long), torch.zeros(4, 9, dtype=torch.long)
    for row, sequence in enumerate(sequences()):
        ids[row, : len(sequence)], mask[row, : len(sequence)] = sequence, 1
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def packed() -> dict[str, torch.Tensor]:
    rows = [{"input_ids": sequence.tolist()} for sequence in sequences()]
    made: dict[str, torch.Tensor] = DataCollatorWithFlattening()(rows)
    assert "attention_mask" not in made
    return made


def models(family: str) -> list[Any]:
    return [tiny_model(family, "next_token", seed=seed, initializer_range=0.2) for seed in (1, 2)]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("objective", [LogitsKL(temperature=1.0), HiddenStates(), TaskLoss()], ids=lambda o: o.name)
def test_terms_of_tokens_are_those_of_padded_rows(tmp_path, family, objective) -> None:
    student, teacher = models(family)
    trainer = make_trainer(tmp_path, student=student, teacher=teacher, terms=[objective])
    values = [trainer.compute_loss(student, made) for made in (packed(), padded())]
    torch.testing.assert_close(*values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_teacher_reads_each_sequence_alone(tmp_path, family) -> None:
    student, teacher = models(family)
    trainer = make_trainer(tmp_path, student=student, teacher=teacher, terms=[LogitsKL()])
    signals = trainer.teacher(packed(), Needs(logits=True))
    with torch.no_grad():
        alone = [teacher(input_ids=sequence[None], use_cache=False).logits for sequence in sequences()]
    torch.testing.assert_close(signals.logits, torch.cat(alone, dim=1), rtol=1e-4, atol=1e-5)
    assert signals.output.get("past_key_values") is None  # which nobody reads


@pytest.mark.parametrize(
    "objective",
    [CKA(), PKT(), RKD(), Attentions(), ClsStates(), Gram(), MiniLMv2(), SentenceEmbeddings()],
    ids=lambda o: o.name,
)
def test_objectives_on_examples_refuse_rows_of_several(tmp_path, objective) -> None:
    student, teacher = models("llama")
    trainer = make_trainer(tmp_path, student=student, teacher=teacher, terms=[objective])
    assert trainer.compute_loss(student, padded()) > 0
    with pytest.raises(DataError, match="position_ids begin anew"):
        trainer.compute_loss(student, packed())
    single = {name: value[:, : LENGTHS[0]] for name, value in packed().items()}
    assert objective.count(single) == 1


def test_padding_in_front_predicts_nothing_without_labels(tmp_path) -> None:
    student, teacher = models("gpt2")
    trainer = make_trainer(tmp_path, student=student, teacher=teacher, terms=[LogitsKL(temperature=1.0)])
    right = {name: value for name, value in padded().items() if name != "labels"}
    left = {name: torch.zeros_like(value) for name, value in right.items()}
    for row, length in enumerate(LENGTHS):
        for name, value in right.items():
            left[name][row, -length:] = value[row, :length]
    left["position_ids"] = (left["attention_mask"].cumsum(1) - 1).clamp(min=0)
    assert trainer.objectives[0].count(left) == trainer.objectives[0].count(right) == sum(LENGTHS) - 4
    values = [trainer.compute_loss(student, made) for made in (left, right)]
    torch.testing.assert_close(*values, rtol=1e-5, atol=1e-6)
