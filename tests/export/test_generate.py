"""Text from decoders' graphs, token by token as transformers writes it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_model
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from distil_nlp.errors import ExportError
from distil_nlp.evaluation.artefacts import OnnxArtefact, PyTorchArtefact
from distil_nlp.evaluation.efficiency import LatencyProtocol, latency_batch
from distil_nlp.evaluation.writing_speed import writing_table
from distil_nlp.export import export_onnx, generate, onnx_logits, open_onnx, torch_logits
from distil_nlp.export.decoder import Decoder
from distil_nlp.export.onnx_model import OneGraph

PROMPTS = {  # padded in front
    "input_ids": np.array([[0, 0, 9, 17, 33], [41, 8, 23, 5, 60]]),
    "attention_mask": np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]),
}


class TorchSession:
    """What onnxruntime's session is, with a PyTorch model behind it."""

    def __init__(self, model: PreTrainedModel, *, cached: bool) -> None:
        self.model, self.cached, self.fed = model, cached, []
        config = model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        shape = ["batch", heads, "past", config.hidden_size // config.num_attention_heads]
        blocks = range(config.num_hidden_layers if cached else 0)
        self.pairs = [f"{block}.{part}" for block in blocks for part in ("key", "value")]
        known = {"input_ids": ["batch", "new"], "attention_mask": ["batch", "all"], "position_ids": ["batch", "new"]}
        known |= {f"past_key_values.{pair}": shape for pair in self.pairs}
        self.inputs = [SimpleNamespace(name=name, shape=size) for name, size in known.items()]
        self.outputs = [SimpleNamespace(name=name) for name in ("logits", *(f"present.{pair}" for pair in self.pairs))]

    def get_inputs(self) -> list[Any]:
        return self.inputs

    def get_outputs(self) -> list[Any]:
        return self.outputs

    @torch.no_grad()
    def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert sorted(feeds) == sorted(value.name for value in self.inputs)
        self.fed.append(feeds["input_ids"].shape[1])
        tensors = {name: torch.from_numpy(feeds[name]) for name in ("input_ids", "attention_mask", "position_ids")}
        cache = DynamicCache() if self.cached else None
        for block in range(len(self.pairs) // 2):
            parts = (torch.from_numpy(feeds[f"past_key_values.{block}.{part}"]) for part in ("key", "value"))
            cache.update(*parts, block)
        output = self.model(**tensors, past_key_values=cache, use_cache=self.cached)
        given = {"logits": output.logits}
        for block in range(len(self.pairs) // 2):
            layer = output.past_key_values.layers[block]
            given |= {f"present.{block}.key": layer.keys, f"present.{block}.value": layer.values}
        return [given[name].numpy() for name in names]


def model_of(family: str, **config: Any) -> PreTrainedModel:
    return tiny_model(family, "next_token", initializer_range=0.5, **config)


def expected(model: PreTrainedModel, tokens: int, eos: int | list[int] | None = None) -> np.ndarray:
    prompts = {name: torch.from_numpy(value) for name, value in PROMPTS.items()}
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = eos, 0
    written = model.generate(**prompts, max_new_tokens=tokens, do_sample=False)
    return written[:, PROMPTS["input_ids"].shape[1] :].numpy()


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_it_writes_what_transformers_writes(family: str, cached: bool) -> None:
    model = model_of(family)
    session = TorchSession(model, cached=cached)
    written = generate(OneGraph(session), PROMPTS, max_new_tokens=14)
    np.testing.assert_array_equal(written, expected(model, 14))
    assert len(np.unique(written)) > 4
    assert session.fed == ([5] + [1] * 13 if cached else list(range(5, 19)))


@pytest.mark.parametrize("several", [False, True])
def test_a_row_that_has_ended_is_filled_up_and_the_last_ends_all(several: bool) -> None:
    model = model_of("llama")
    free = generate(OneGraph(TorchSession(model, cached=True)), PROMPTS, max_new_tokens=14)
    ends = [int(free[0, 2]), int(free[1, 6])] if several else int(free[0, 2])
    written = generate(OneGraph(TorchSession(model, cached=True)), PROMPTS, max_new_tokens=14, eos_token_id=ends)
    np.testing.assert_array_equal(written, expected(model, 14, ends))
    assert not written[0, 3:].any()


def test_nothing_is_written_where_nothing_is_asked_for() -> None:
    assert generate(OneGraph(TorchSession(model_of("gpt2"), cached=True)), PROMPTS, max_new_tokens=0).shape == (2, 0)


def test_steps_give_the_logits_of_the_whole() -> None:
    model = model_of("llama")
    decoder, ids, mask = Decoder(TorchSession(model, cached=True)), PROMPTS["input_ids"], PROMPTS["attention_mask"]
    whole, _ = decoder.step(ids, mask)
    first, past = decoder.step(ids[:, :2], mask[:, :2])
    second, past = decoder.step(ids[:, 2:4], mask[:, :4], past)
    third, _ = decoder.step(ids[:, 4:], mask, past)
    pieces = np.concatenate([first, second, third], axis=1)
    np.testing.assert_allclose(pieces[mask == 1], whole[mask == 1], rtol=1e-4, atol=1e-4)


def test_writing_is_timed_without_the_prompt() -> None:
    model = model_of("llama")
    session = TorchSession(model, cached=True)
    protocol = LatencyProtocol(batch_sizes=(2,), threads=(1,), sequence_length=6, repeats=1)
    table = writing_table(
        [PyTorchArtefact("student", model), OnnxArtefact("onnx", lambda threads: OneGraph(session))],
        lambda size: latency_batch(size, sequence_length=6, vocab_size=64),
        protocol,
        new_tokens=9,
    )
    for name, runtime in (("student", "pytorch"), ("onnx", "onnxruntime")):
        (row,) = table[name]
        assert row["tokens_per_second"] > 0
        assert {**row, "tokens_per_second": 0} == {
            "tokens_per_second": 0,
            "batch_size": 2,
            "threads": 1,
            "runtime": runtime,
            "prompt_tokens": 6,
            "new_tokens": 9,
        }
    assert set(session.fed) == {6, 1}
    assert session.fed.count(1) == 9 * session.fed.count(6) / 2  # half of the calls write one token only


def test_the_native_backend_has_no_cache(llama, samples, tmp_path) -> None:
    with pytest.raises(ExportError, match="makes graphs that do not"):
        export_onnx(llama, tmp_path / "onnx", task="text-generation-with-past", backend="native", samples=samples)


@pytest.mark.slow
def test_optimum_exports_a_cache_that_writes_the_same(llama, samples, tmp_path) -> None:
    exported = export_onnx(
        llama, tmp_path / "onnx", task="text-generation-with-past", samples=samples, progress=lambda line: None
    )
    model = AutoModelForCausalLM.from_pretrained(llama)
    graph = open_onnx(exported.onnx)
    assert graph.decoder.cached
    np.testing.assert_array_equal(generate(graph, PROMPTS, max_new_tokens=12), expected(model, 12))
    (whole,), (reference,) = onnx_logits(exported.onnx, samples[:1]), torch_logits(model, samples[:1])
    assert list(whole) == ["logits"]
    in_parts = graph.in_steps(samples[0])
    real = samples[0]["attention_mask"] == 1
    for given in (whole, in_parts):
        np.testing.assert_allclose(given["logits"][real], reference["logits"][real], rtol=1e-3, atol=1e-4)
    quantized = generate(open_onnx(exported.onnx_int8), PROMPTS, max_new_tokens=12)
    assert (quantized[:, :3] == expected(model, 12)[:, :3]).all()  # activations are rounded: later ones may differ
