"""Encoder-decoders as two graphs: what they give, and what they write, is what transformers gives and writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, MBartConfig
from two_graphs import NEW, graphs_of, model_of, rows, up_to_end, written_by

from distil_nlp.errors import ExportError
from distil_nlp.evaluation.artefacts import OnnxArtefact, PyTorchArtefact
from distil_nlp.evaluation.efficiency import LatencyProtocol, latency_batch, latency_table
from distil_nlp.evaluation.writing_speed import writing_table
from distil_nlp.export import check_rules, compare, generate
from distil_nlp.export.batches import decoder_inputs
from distil_nlp.export.parity import torch_forward


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_it_gives_and_writes_what_transformers_does(family: str, cached: bool, tmp_path: Path) -> None:
    model, batch = model_of(family), rows()
    graphs = graphs_of(model, tmp_path, cached=cached)
    expected = model(**{name: torch.from_numpy(value) for name, value in batch.items()})
    real = batch["labels"] != -100
    for given in (graphs(batch), graphs.in_steps(batch)) if cached else (graphs(batch),):
        np.testing.assert_allclose(given["logits"][real], expected.logits.detach()[real], rtol=1e-3, atol=1e-4)
        states, read = given["encoder_last_hidden_state"], batch["attention_mask"] == 1
        np.testing.assert_allclose(states[read], expected.encoder_last_hidden_state.detach()[read], atol=1e-4)
    fed = graphs.decoder.session.fed
    assert fed == ([11] + [1] * 11 if cached else [11])
    fed.clear()
    made = generate(graphs, batch, max_new_tokens=NEW)
    np.testing.assert_array_equal(made, written_by(model, batch, eos_token_id=None))
    assert len(np.unique(made)) > 4
    assert fed == ([1] * NEW if cached else list(range(1, NEW + 1)))


SETTINGS: list[dict[str, Any]] = [
    {},
    {"forced_bos_token_id": 11, "begin_suppress_tokens": [5, 9], "forced_eos_token_id": 2},
    {"no_repeat_ngram_size": 2, "repetition_penalty": 1.7, "suppress_tokens": [8, 21, 30]},
    {"min_length": 6, "bad_words_ids": [[4], [19, 22]]},
    {"min_new_tokens": 5},
    {"do_sample": True, "temperature": 3.0, "top_k": 5, "num_beams": 4, "length_penalty": 2.0},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda each: "-".join(each) or "none")
def test_it_writes_as_the_generation_config_has_it(settings: dict[str, Any], tmp_path: Path) -> None:
    model, batch = model_of("bart"), rows()
    free = written_by(model, batch, eos_token_id=None)
    model.generation_config.eos_token_id = ends = [int(free[0, 2]), int(free[1, 3])]
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    graphs = graphs_of(model, tmp_path)
    graphs.generation = model.generation_config  # transformers does not save settings that contradict each other
    made = graphs.writer(num_beams=1, max_new_tokens=NEW)(batch)
    expected = [up_to_end(row, ends) for row in written_by(model, batch).tolist()]
    assert made == expected
    plain = graphs_of(model_of("bart"), tmp_path)
    plain.generation.eos_token_id = ends
    if settings and not settings.get("do_sample"):
        assert made != plain.writer(num_beams=1, max_new_tokens=NEW)(batch)


def test_what_is_not_done_in_onnxruntime_is_refused(tmp_path: Path) -> None:
    check_rules(GenerationConfig(encoder_repetition_penalty=1.0, length_penalty=2.0, num_beams=4))
    with pytest.raises(ExportError, match="encoder_no_repeat_ngram_size = 3"):
        check_rules(GenerationConfig(encoder_no_repeat_ngram_size=3))
    with pytest.raises(ExportError, match="num_beams: 1"):
        graphs_of(model_of("t5"), tmp_path).writer(num_beams=2, max_new_tokens=3)


def test_latency_is_reading_and_the_first_token_and_writing_is_timed_without(tmp_path: Path) -> None:
    model = model_of("t5")
    graphs = graphs_of(model, tmp_path)
    artefacts = [PyTorchArtefact("student", model), OnnxArtefact("onnx", lambda threads: graphs)]
    protocol = LatencyProtocol(batch_sizes=(2,), threads=(1,), sequence_length=6, repeats=1, warmup=1)

    def batch_of(size: int) -> dict[str, torch.Tensor]:
        return latency_batch(size, sequence_length=6, vocab_size=40)

    (row,) = latency_table(artefacts, batch_of, protocol)["onnx"]
    assert row["p50"] > 0
    assert graphs.decoder.session.fed == [1] * graphs.encoder.runs
    (row,) = writing_table(artefacts, batch_of, protocol, new_tokens=9)["onnx"]
    assert (row["prompt_tokens"], row["new_tokens"]) == (6, 9)


# ---- what the decoder reads ----


@pytest.mark.parametrize("family", ["t5", "bart", "m2m_100"])
def test_labels_are_shifted_as_each_model_does_it(family: str, tmp_path: Path) -> None:
    model, batch, read = model_of(family), rows(), []
    model.config.save_pretrained(tmp_path)

    def look(module: Any, arguments: Any, named: dict[str, Any]) -> None:
        read.append(named["input_ids"])

    hook = model.get_decoder().register_forward_pre_hook(look, with_kwargs=True)
    model(**{name: torch.from_numpy(value) for name, value in batch.items()})
    hook.remove()
    np.testing.assert_array_equal(decoder_inputs(tmp_path)(batch)["decoder_input_ids"], read[0].numpy())


def test_mbart_reads_its_language_first(tmp_path: Path) -> None:
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    MBartConfig(vocab_size=40, encoder_attention_heads=1, decoder_attention_heads=1, **sizes).save_pretrained(tmp_path)
    labels = np.array([[5, 6, 2, 33], [5, 2, 33, -100]])
    read = decoder_inputs(tmp_path)({"labels": labels})["decoder_input_ids"]
    assert read.tolist() == [[33, 5, 6, 2], [33, 5, 2, 33]]


def test_a_batch_without_targets_is_refused(tmp_path: Path) -> None:
    batch = {name: value for name, value in rows().items() if name != "labels"}
    with pytest.raises(ExportError, match="Give batches with labels"):
        graphs_of(model_of("t5"), tmp_path)(batch)


# ---- parity ----


def test_each_output_is_judged_by_its_own_scale_and_its_own_padding() -> None:
    batch = {"input_ids": np.ones((2, 3)), "attention_mask": np.array([[1, 1, 0], [1, 1, 1]])}
    batch |= {"decoder_input_ids": np.ones((2, 4)), "labels": np.array([[5, 5, 5, 5], [5, -100, -100, -100]])}
    right = {"encoder_last_hidden_state": np.full((2, 3, 8), 1000.0), "logits": np.full((2, 4, 6), 1.0)}
    padded = {name: value.copy() for name, value in right.items()}
    padded["encoder_last_hidden_state"][0, 2] = 9
    padded["logits"][1, 1:] = 9
    assert compare([right], [padded], [batch]).max_abs_diff == 0
    wrong = {**right, "logits": right["logits"] + 0.05}
    assert (compare([right], [wrong], [batch]).max_abs_diff, compare([right], [wrong], [batch]).largest) == (
        pytest.approx(0.05),
        1.0,
    )
    assert not compare([right], [wrong], [batch]).within(1e-3)
    far = compare([right], [{**right, "logits": np.full((2, 4, 6), np.nan)}], [batch])
    assert not far.within(1e9)
    assert compare([right], [wrong], [batch]).worse_of(far) is far


def test_pytorch_reads_what_it_makes_of_the_labels() -> None:
    model, batch = model_of("bart"), rows()
    expected = model(**{name: torch.from_numpy(value) for name, value in batch.items()}).logits.detach()
    np.testing.assert_array_equal(torch_forward(model)(batch)["logits"], expected)
