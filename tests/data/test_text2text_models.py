"""Text to text by models that differ from T5 and BART in where their decoders start, and how deep they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from test_text2text_generation import SOURCES, TARGETS, TOKENIZER, make_task
from tiny_seq2seq import tiny_seq2seq
from transformers import AutoModelForSeq2SeqLM, MBartConfig, PreTrainedModel

from distil_nlp.data.writing import last_of_targets
from distil_nlp.errors import ModelError
from distil_nlp.students import build_student

LANGUAGE = 5


def mbart() -> PreTrainedModel:
    """It reads its language first, which labels have last."""
    config = MBartConfig(
        vocab_size=len(TOKENIZER),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        init_std=0.7,
        pad_token_id=TOKENIZER.pad_token_id,
        bos_token_id=TOKENIZER.eos_token_id,
        eos_token_id=TOKENIZER.eos_token_id,
        decoder_start_token_id=LANGUAGE,
        forced_eos_token_id=TOKENIZER.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made: PreTrainedModel = AutoModelForSeq2SeqLM.from_config(config).eval()
        return made


def test_on_targets_of_a_teacher_the_decoder_reads_what_it_read_while_it_wrote(tmp_path: Path) -> None:
    teacher, task = mbart(), make_task(targets="teacher", target_beams=1)
    rows = task.tokenize(Dataset.from_dict({"source": SOURCES, "target": TARGETS}), TOKENIZER)
    made = task.distilled(rows, TOKENIZER, teacher=teacher, fingerprint=lambda: "a", folder=tmp_path, batch_size=2)
    for ids, labels in zip(made["input_ids"], made["labels"], strict=True):
        text = teacher.generate(torch.tensor([ids]), do_sample=False, num_beams=1, max_new_tokens=6)[0].tolist()
        read = teacher.prepare_decoder_input_ids_from_labels(torch.tensor([labels]))[0].tolist()
        assert read == text
        assert labels == [*text[1:], LANGUAGE]


@pytest.mark.parametrize("family", ["t5", "bart", "m2m_100"])
def test_other_targets_are_the_texts_alone(family: str) -> None:
    assert last_of_targets(tiny_seq2seq(family)) == []


def test_a_decoder_without_a_place_in_the_cache_is_refused() -> None:
    teacher, task = tiny_seq2seq("t5", num_layers=3), make_task()
    student = build_student(teacher, layers=[1, 3], decoder_layers=3)
    with pytest.raises(ModelError, match=r"(?s)3 layers in its decoder.*for 2, as many as its encoder"):
        task.check_student(student, teacher)
    with pytest.raises(IndexError):  # so that it would have been trained for nothing
        student.generate(torch.tensor([[5, 6]]), max_new_tokens=3)
    for family, depths in (("t5", {"num_layers": 2}), ("bart", {"encoder_layers": 1, "decoder_layers": 3})):
        fitting = tiny_seq2seq(family, **depths)
        task.check_student(fitting, teacher)
        fitting.generate(torch.tensor([[5, 6]]), max_new_tokens=3)
