"""The two graphs of an encoder-decoder: their files, how they are made, and that Optimum makes the right ones."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, load, save
from tiny_seq2seq import build_tokenizer
from transformers import PreTrainedModel
from two_graphs import NEW, model_of, rows, up_to_end, written_by

from distil_nlp.errors import ExportError
from distil_nlp.export import Graphs, export_onnx, find_graphs, open_onnx, optimum, optimum_script
from distil_nlp.export.parity import torch_forward


def test_files_are_found_by_what_there_is(tmp_path: Path) -> None:
    assert find_graphs(tmp_path) is None
    for name in ("encoder_model.onnx", "decoder_model_merged.onnx", "decoder_model_merged.onnx_data"):
        (tmp_path / name).write_bytes(b"x" * 1000)
    found = find_graphs(tmp_path)
    assert found == Graphs(tmp_path, ("encoder_model", "decoder_model_merged"))
    assert found.size_mb == pytest.approx(0.003)
    assert find_graphs(tmp_path, quantized=True) is None
    for name in ("encoder_model_quantized.onnx", "decoder_model_merged_quantized.onnx"):
        (tmp_path / name).write_bytes(b"x" * 10)
    int8 = find_graphs(tmp_path, quantized=True)
    assert int8 is not None
    assert int8.size_mb == pytest.approx(2e-5)
    int8.delete()
    assert find_graphs(tmp_path) == found
    assert find_graphs(tmp_path, quantized=True) is None


def test_one_graph_writes_no_texts_to_be_scored(tmp_path: Path) -> None:
    nodes = [helper.make_node("Cast", ["input_ids"], ["logits"], to=TensorProto.FLOAT)]
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "tokens"])]
    graph = helper.make_graph(nodes, "cast", inputs, outputs)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "model.onnx")
    assert not open_onnx(tmp_path / "model.onnx").decoder.cached
    with pytest.raises(ExportError, match="one graph"):
        open_onnx(tmp_path / "model.onnx").writer(num_beams=1, max_new_tokens=3)


def saved(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def test_the_native_backend_makes_one_graph_only(tmp_path: Path) -> None:
    folder = saved(model_of("t5"), tmp_path / "model")
    with pytest.raises(ExportError, match=r"encoder_model, decoder_model\), and native makes one"):
        export_onnx(folder, tmp_path / "onnx", task="text2text-generation", backend="native", samples=[rows()])
    assert not (tmp_path / "onnx").exists()


def test_both_pieces_of_a_decoder_are_quantized_alike_and_then_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[Any, ...]] = []
    sample = {"input_ids": np.ones((1, 3))}
    read = {"encoder_hidden_states": np.ones((1, 3, 2))}
    wild = {"encoder_model.onnx": ["a"], "decoder_model.onnx": ["b", "c"]}
    monkeypatch.setattr(optimum_script, "make_weights_direct", lambda path: None)
    monkeypatch.setattr(optimum_script, "read_by_decoder", lambda encoder, given: read)
    monkeypatch.setattr(optimum_script, "quantize", lambda path, *how: done.append((path.name, *how)))

    def rounded_away(path: Path, given: dict[str, np.ndarray]) -> list[str]:
        assert given is (sample if path.name == "encoder_model.onnx" else read)
        return wild[path.name]

    def merge_decoders(*pieces: Path, save_path: Path, strict: bool) -> None:
        done.append(([piece.name for piece in pieces], save_path.name, strict))

    monkeypatch.setattr(optimum_script, "rounded_away", rounded_away)
    monkeypatch.setitem(sys.modules, "optimum", ModuleType("optimum"))
    monkeypatch.setitem(sys.modules, "optimum.onnx", SimpleNamespace(merge_decoders=merge_decoders))
    optimum_script.quantize_parts(Path("x"), ["encoder_model", "decoder_model_merged"], "arm64", ["Gather"], sample)
    assert done == [
        ("encoder_model.onnx", "arm64", ["Gather"], ["a"]),
        ("decoder_model.onnx", "arm64", ["Gather"], ["b", "c"]),
        ("decoder_with_past_model.onnx", "arm64", ["Gather"], ["b", "c"]),
        (
            ["decoder_model_quantized.onnx", "decoder_with_past_model_quantized.onnx"],
            "decoder_model_merged_quantized.onnx",
            False,
        ),
    ]


def test_a_graph_that_optimum_does_not_make_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make_the_encoder(environment: Path, job: Any, staged: Path, written: Path) -> None:
        written.mkdir()
        (written / "encoder_model.onnx").write_bytes(b"x")

    monkeypatch.setattr(optimum, "ensure_environment", lambda progress: tmp_path)
    monkeypatch.setattr(optimum, "_run", make_the_encoder)
    request = {"task": "text2text-generation-with-past", "samples": [rows()], "progress": lambda line: None}
    with pytest.raises(ExportError, match=r"no decoder_model_merged.onnx, but encoder_model.onnx"):
        export_onnx(saved(model_of("t5"), tmp_path / "model"), tmp_path / "onnx", **request)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "config"),
    [("t5", {}), ("t5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}), ("bart", {})],
    ids=["t5", "t5-1.1", "bart"],
)
def test_optimum_exports_two_graphs_that_write_the_same(family: str, config: dict[str, Any], tmp_path: Path) -> None:
    model, batch = model_of(family, **config), rows()
    model.generation_config.no_repeat_ngram_size = 3
    folder = saved(model, tmp_path / "model")
    exported = export_onnx(
        folder,
        tmp_path / "onnx",
        task="text2text-generation-with-past",
        samples=[batch],
        target="avx2",
        progress=lambda line: None,
    )
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == {
        *("encoder_model.onnx", "decoder_model_merged.onnx"),
        *("encoder_model_quantized.onnx", "decoder_model_merged_quantized.onnx"),
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    }
    assert exported.max_abs_diff < 1e-4
    assert exported.to_dict()["onnx"] == ["encoder_model.onnx", "decoder_model_merged.onnx"]
    assert exported.onnx_size_mb == sum(file.stat().st_size for file in exported.onnx.files) / 1e6
    assert exported.onnx_int8_size_mb < exported.onnx_size_mb
    weights = [tensor for tensor in load(exported.onnx_int8.files[1]).graph.initializer if len(tensor.dims) > 1]
    matrices = [tensor.raw_data for tensor in weights if min(tensor.dims) > 1]
    assert len(matrices) == len(set(matrices)) > 10  # both pieces read the same ones
    graphs = open_onnx(exported.onnx)
    assert graphs.decoder.cached
    assert len(np.unique(written_by(model, batch, eos_token_id=None))) > 4
    made = graphs.writer(num_beams=1, max_new_tokens=NEW)(batch)
    assert made == [up_to_end(row, model.generation_config.eos_token_id) for row in written_by(model, batch).tolist()]
    int8 = open_onnx(exported.onnx_int8)
    forced, stepped = int8(batch)["logits"], int8.in_steps(batch)["logits"]
    right, real = torch_forward(model)(batch)["logits"], batch["labels"] != -100
    for given in (forced, stepped):
        assert (given.argmax(-1) == right.argmax(-1))[real].mean() > 0.7
        assert np.abs(given - right)[real].mean() < 0.2 * np.abs(right[real]).mean()
