from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BartConfig, BartForSequenceClassification

from distil_nlp.errors import ExportError, ModelError
from distil_nlp.evaluation import efficiency
from distil_nlp.evaluation.artefacts import OnnxArtefact, PyTorchArtefact
from distil_nlp.evaluation.efficiency import (
    LatencyProtocol,
    count_parameters,
    latency_batch,
    latency_table,
    measure_in_turns,
    size_mb,
)
from distil_nlp.export.onnx_model import OneGraph


class FakeMachine:
    """A clock that only calls move, and a diary of who ran."""

    def __init__(self) -> None:
        self.now, self.diary = 0.0, []

    def call(self, name, seconds):
        waits = iter(seconds)

        def run():
            self.diary.append(name)
            self.now += next(waits)

        return run

    def clock(self):
        return self.now


def test_only_the_timed_calls_count():
    machine = FakeMachine()
    slow_start = [9.0] * (3 + efficiency.SETTLE) + [0.010, 0.020, 0.030, 0.040, 0.050]
    (found,) = measure_in_turns([machine.call("a", slow_start)], repeats=5, warmup=3, clock=machine.clock)
    assert found.p50 == pytest.approx(30.0)
    assert found.p95 == pytest.approx(np.quantile([10, 20, 30, 40, 50], 0.95))
    assert found.repeats == 5


def test_artefacts_take_turns_and_each_gets_every_repeat():
    machine = FakeMachine()
    calls = [machine.call(name, [ms / 1e3] * 99) for name, ms in (("a", 2.0), ("b", 7.0))]
    found = measure_in_turns(calls, repeats=7, warmup=1, clock=machine.clock)
    settle, turn = efficiency.SETTLE, efficiency.TURN
    first, last = settle + turn, settle + 7 - turn
    assert "".join(machine.diary) == "ab" + "a" * first + "b" * first + "a" * last + "b" * last
    assert [(latency.p50, latency.repeats) for latency in found] == [
        (pytest.approx(2.0), 7),
        (pytest.approx(7.0), 7),
    ]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 8)
        self.seen = []

    def forward(self, input_ids, attention_mask=None):
        self.seen.append((self.training, torch.is_inference_mode_enabled(), torch.get_num_threads()))
        return self.embedding(input_ids)


class Session:
    def __init__(self, threads: int) -> None:
        self.threads, self.feeds = threads, []

    def get_inputs(self):
        return [SimpleNamespace(name="input_ids", shape=["batch", "tokens"])]

    def get_outputs(self):
        return [SimpleNamespace(name="logits")]

    def run(self, outputs, feed):
        self.feeds.append(feed)


def batch_of(size):
    names = ("input_ids", "token_type_ids", "attention_mask")
    return latency_batch(size, sequence_length=6, vocab_size=40, input_names=names)


def test_table_has_a_row_for_every_setting_and_leaves_the_model_as_it_was(monkeypatch):
    monkeypatch.setattr(efficiency, "available_threads", lambda: 2)
    model, sessions, seen = Model().train(), [], []

    def open_model(threads):
        sessions.append(Session(threads))
        return OneGraph(sessions[-1])

    threads_before = torch.get_num_threads()
    table = latency_table(
        [PyTorchArtefact("teacher", model), OnnxArtefact("onnx", open_model)],
        batch_of,
        LatencyProtocol(batch_sizes=(1, 3), threads=(1, "all", 2), sequence_length=6, repeats=3, warmup=1),
        progress=lambda done, total: seen.append((done, total)),
    )
    settings = [(1, 1), (3, 1), (1, 2), (3, 2)]
    for name, runtime in (("teacher", "pytorch"), ("onnx", "onnxruntime")):
        assert [(row["batch_size"], row["threads"]) for row in table[name]] == settings
        assert {(row["runtime"], row["sequence_length"], row["repeats"]) for row in table[name]} == {(runtime, 6, 3)}
        assert all(0 <= row["p50"] <= row["p95"] for row in table[name])
    assert [session.threads for session in sessions] == [1, 1, 2, 2]
    assert {(training, inference) for training, inference, _ in model.seen} == {(False, True)}
    assert {threads for *_, threads in model.seen} == {1, 2}
    assert torch.get_num_threads() == threads_before
    assert model.training
    assert seen == [(done, 4) for done in (1, 2, 3, 4)]
    feed = sessions[0].feeds[0]
    assert list(feed) == ["input_ids"]
    assert isinstance(feed["input_ids"], np.ndarray)


def test_threads_are_restored_after_a_failure():
    class Broken(Model):
        def forward(self, input_ids):
            raise RuntimeError("broken")

    before, model = torch.get_num_threads(), Broken().train()
    with pytest.raises(RuntimeError, match="broken"):
        latency_table(
            [PyTorchArtefact("x", model)], batch_of, LatencyProtocol(threads=(before + 1,), sequence_length=6)
        )
    assert torch.get_num_threads() == before
    assert model.training


def test_a_batch_that_is_not_what_the_rows_would_say_is_refused():
    with pytest.raises(ModelError, match="32 tokens"):
        latency_table([PyTorchArtefact("x", Model())], batch_of, LatencyProtocol(sequence_length=32))


def test_a_graph_input_that_nobody_feeds_is_named():
    artefact = OnnxArtefact("onnx", lambda threads: OneGraph(Session(threads)))
    with pytest.raises(ExportError, match="wants input_ids; the batch has attention_mask"):
        artefact.ready({"attention_mask": torch.ones(1, 1)}, 1)


def test_latency_batch_has_no_padding():
    batch = batch_of(2)
    assert {name: tuple(value.shape) for name, value in batch.items()} == dict.fromkeys(batch, (2, 6))
    assert batch["attention_mask"].eq(1).all()
    assert batch["token_type_ids"].eq(0).all()
    assert batch["input_ids"].min() >= 20
    assert batch["input_ids"].max() < 40


def test_parameters_count_tied_ones_once():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10, bias=False))
    assert count_parameters(model) == 80
    model[1].weight = model[0].weight
    assert count_parameters(model) == 40


def test_size_of_folders(tmp_path):
    save_file({"w": torch.zeros(1000)}, tmp_path / "model.safetensors")
    (tmp_path / "tokenizer.json").write_bytes(b"x" * 5000)
    assert size_mb(tmp_path) == (tmp_path / "model.safetensors").stat().st_size / 1e6
    with pytest.raises(ModelError, match="weights"):
        size_mb(tmp_path / "none")


def test_an_encoder_decoder_with_a_classifier_is_timed_like_any_classifier():
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "vocab_size": 64,
        "max_position_embeddings": 32,
    }
    model = BartForSequenceClassification(BartConfig(**sizes, **heads)).eval()
    made = latency_batch(3, sequence_length=8, vocab_size=64, last_id=model.config.eos_token_id)
    assert (made["input_ids"][:, -1] == model.config.eos_token_id).all()
    [output] = PyTorchArtefact("student", model).ready(made, 1)()
    assert output.logits.shape == (3, 3)
