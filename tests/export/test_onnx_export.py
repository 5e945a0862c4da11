"""An export is kept when it is the same model, and only then."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from distil_nlp.errors import ExportError
from distil_nlp.export import ExportResult, decoder, export_onnx, native, onnx_export, optimum
from distil_nlp.export.job import ExportJob
from distil_nlp.export.onnx_model import OneGraph

MODEL, QUANTIZED = "model.onnx", "model_quantized.onnx"
TASK = "text-classification"


def quiet(line: str) -> None:
    """Swallows progress."""


@pytest.fixture(scope="module")
def exported(bert, samples, tmp_path_factory) -> ExportResult:
    pytest.importorskip("transformers.exporters", reason="early transformers 5 have no exporter")
    folder = tmp_path_factory.mktemp("run") / "onnx"
    return export_onnx(bert, folder, task=TASK, samples=samples, backend="native", progress=quiet)


@pytest.fixture
def earlier(tmp_path) -> Path:
    """A good export that must survive whatever follows."""
    folder = tmp_path / "onnx"
    folder.mkdir()
    (folder / MODEL).write_text("good")
    return folder


def unharmed(earlier: Path) -> bool:
    return (earlier / MODEL).read_text() == "good" and list(earlier.parent.iterdir()) == [earlier]


def replace_backend(monkeypatch, write) -> None:
    monkeypatch.setitem(onnx_export.BACKENDS, "native", write)


def copy_of(exported: ExportResult):
    """A backend that hands out what was exported before, without the time that it takes."""

    def write(job: ExportJob) -> None:
        for name in (MODEL, QUANTIZED):
            shutil.copy(exported.onnx.folder / name, job.graphs.folder / name)

    return write


def test_native_export_equals_pytorch(exported):
    assert exported.max_abs_diff < 1e-5
    assert 0 < exported.int8_max_abs_diff < 0.5
    assert exported.int8_agreement == 1.0
    assert exported.onnx_int8_size_mb < exported.onnx_size_mb
    assert exported.in_words().endswith("100.0% of its answers the same")
    assert (exported.backend, exported.target) == ("native", "avx512_vnni")


def test_result_is_json(exported):
    facts = json.loads(json.dumps(exported.to_dict()))
    assert facts["onnx"] == [MODEL]
    assert facts["onnx_int8"] == [QUANTIZED]
    assert facts["onnx_size_mb"] == (exported.onnx.folder / MODEL).stat().st_size / 1e6


def test_folder_runs_on_onnxruntime_and_tokenizers_alone(exported, bert):
    folder = exported.onnx.folder
    assert json.loads((folder / "config.json").read_text())["model_type"] == "bert"
    ids = np.array([Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a fine film").ids])
    session = onnxruntime.InferenceSession(folder / MODEL, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    model = AutoModelForSequenceClassification.from_pretrained(bert).eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_export_is_one_file_and_tells_nothing_of_this_machine(exported):
    names = {path.name for path in exported.onnx.folder.iterdir()}
    assert names == {"config.json", MODEL, QUANTIZED, "tokenizer.json", "tokenizer_config.json"}
    for path in (*exported.onnx.files, *exported.onnx_int8.files):
        assert b"site-packages" not in path.read_bytes()


def test_export_replaces_an_earlier_one_whole(exported, bert, samples, earlier, monkeypatch):
    (earlier / "stale.txt").write_text("old")
    replace_backend(monkeypatch, copy_of(exported))
    export_onnx(bert, earlier, task=TASK, samples=samples, backend="native", progress=quiet)
    assert (earlier / MODEL).read_bytes() == (exported.onnx.folder / MODEL).read_bytes()
    assert not (earlier / "stale.txt").exists()
    assert list(earlier.parent.iterdir()) == [earlier]


def test_wrong_rotary_base_is_caught(llama, samples, earlier, monkeypatch):
    """The mistake that transformers 4 makes with a config of transformers 5, without a word."""
    pytest.importorskip("transformers.exporters", reason="early transformers 5 have no exporter")

    def forget_the_base(model_dir, task):
        model = AutoModelForCausalLM.from_pretrained(model_dir)
        model.config.rope_parameters["rope_theta"] = 10_000.0
        return AutoModelForCausalLM.from_pretrained(model_dir, config=model.config).eval()

    monkeypatch.setattr(native, "load_checkpoint", forget_the_base)
    with pytest.raises(ExportError, match="not the same model"):
        export_onnx(
            llama,
            earlier,
            task="text-generation",
            samples=samples,
            backend="native",
            quantization=None,
            progress=quiet,
        )
    assert unharmed(earlier)


def test_corrupt_graph_is_caught(bert, samples, earlier, monkeypatch):
    replace_backend(monkeypatch, lambda job: (job.graphs.folder / MODEL).write_bytes(b"\x08\x07not a graph"))
    with pytest.raises(ExportError, match="cannot load it"):
        export_onnx(bert, earlier, task=TASK, samples=samples, backend="native", quantization=None, progress=quiet)
    assert unharmed(earlier)


def test_nan_is_never_parity(exported, bert, samples, earlier, monkeypatch):
    def poisoned(graph, batch):
        return {"logits": np.full((len(batch["input_ids"]), 3), np.nan, np.float32)}

    replace_backend(monkeypatch, copy_of(exported))
    monkeypatch.setattr(OneGraph, "__call__", poisoned)
    with pytest.raises(ExportError, match="not the same model"):
        export_onnx(bert, earlier, task=TASK, samples=samples, backend="native", progress=quiet)
    assert unharmed(earlier)


def test_a_cache_that_gives_other_outputs_is_caught(exported, bert, samples, earlier, monkeypatch):
    def poisoned(graph, batch):
        return {"logits": np.zeros((len(batch["input_ids"]), 3), np.float32)}

    replace_backend(monkeypatch, copy_of(exported))
    monkeypatch.setattr(OneGraph, "in_steps", poisoned)
    monkeypatch.setattr(decoder, "empty_past", lambda session, rows: {"past_key_values.0.key": None})
    with pytest.raises(ExportError, match="not the same model"):
        export_onnx(bert, earlier, task=TASK, samples=samples, backend="native", progress=quiet)
    assert unharmed(earlier)


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_full_disk_and_interrupt_leave_the_earlier_export(bert, samples, earlier, monkeypatch, failure):
    def fail(job: ExportJob) -> None:
        (job.graphs.folder / MODEL).write_bytes(b"half")
        raise failure

    replace_backend(monkeypatch, fail)
    with pytest.raises((ExportError, KeyboardInterrupt)) as caught:
        export_onnx(bert, earlier, task=TASK, samples=samples, backend="native", progress=quiet)
    if isinstance(failure, OSError):
        assert "No space left" in str(caught.value)
    assert unharmed(earlier)


def test_interrupt_between_the_two_renames_restores_the_earlier_export(exported, bert, samples, earlier, monkeypatch):
    rename = onnx_export.os.replace

    def interrupted(source, target):
        if Path(source).name == "new":
            raise KeyboardInterrupt
        rename(source, target)

    replace_backend(monkeypatch, copy_of(exported))
    monkeypatch.setattr(onnx_export.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_onnx(bert, earlier, task=TASK, samples=samples, backend="native", progress=quiet)
    assert unharmed(earlier)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"task": "text-clasification"}, "Did you mean 'text-classification'"),
        ({"backend": "optimun"}, "Did you mean 'optimum'"),
        ({"target": "avx512"}, "Known: arm64, avx2, avx512_vnni"),
        ({"quantization": "static"}, "Known: dynamic"),
        ({"keep_float": ["gather"]}, "Did you mean 'Gather'"),
        ({"samples": []}, "no sample batches"),
    ],
)
def test_wrong_requests_are_refused_before_any_work(bert, samples, tmp_path, wrong, message):
    request = {"task": TASK, "samples": samples, "backend": "native"} | wrong
    with pytest.raises(ExportError, match=message):
        export_onnx(bert, tmp_path / "onnx", **request)
    assert not any(tmp_path.iterdir())


def test_only_an_export_is_ever_replaced(bert, samples, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ExportError, match="not an earlier export"):
        export_onnx(bert, tmp_path, task=TASK, samples=samples, backend="native")
    with pytest.raises(ExportError, match="The model to export is in it"):
        export_onnx(bert, bert.parent, task=TASK, samples=samples, backend="native")


def test_checkpoint_without_safetensors_is_refused(tmp_path, samples):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ExportError, match=r"no \*\.safetensors"):
        export_onnx(tmp_path, tmp_path / "onnx", task=TASK, samples=samples, backend="native")


def test_checkpoint_of_another_task_is_refused(bert, samples, tmp_path):
    with pytest.raises(ExportError, match="lacks qa_outputs"):
        export_onnx(bert, tmp_path / "onnx", task="question-answering", samples=samples, backend="native")


def test_adapters_alone_are_refused(samples, tmp_path):
    (tmp_path / "adapter_model.safetensors").touch()
    request = {"task": TASK, "samples": samples, "backend": "native"}
    with pytest.raises(ExportError, match="written by save_pretrained"):
        export_onnx(tmp_path, tmp_path / "onnx", **request)
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(ExportError, match=r"merge_adapters\(student\).save_pretrained"):
        export_onnx(tmp_path, tmp_path / "onnx", **request)


def test_transformers_without_an_exporter(bert, samples, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers.exporters.exporter_onnx", None)
    with pytest.raises(ExportError, match="has no ONNX exporter"):
        export_onnx(bert, tmp_path / "onnx", task=TASK, samples=samples, backend="native", progress=quiet)


@pytest.mark.slow
def test_optimum_export_equals_pytorch(bert, samples, tmp_path):
    result = export_onnx(bert, tmp_path / "onnx", task=TASK, samples=samples, progress=quiet)
    assert result.max_abs_diff < 1e-5
    assert result.int8_agreement == 1.0
    assert result.onnx_int8_size_mb < result.onnx_size_mb
    names = {path.name for path in result.onnx.folder.iterdir()}
    assert names == {"config.json", MODEL, QUANTIZED, "tokenizer.json", "tokenizer_config.json"}


@pytest.mark.slow
def test_optimum_translates_llama_and_parity_needs_it(llama, samples, earlier, tmp_path_factory, monkeypatch):
    request = {"task": "text-generation", "samples": samples, "quantization": None, "progress": quiet}
    assert export_onnx(llama, tmp_path_factory.mktemp("run") / "onnx", **request).max_abs_diff < 1e-4
    monkeypatch.setattr(optimum, "to_transformers_4", dict)
    with pytest.raises(ExportError, match="not the same model"):
        export_onnx(llama, earlier, **request)
    assert unharmed(earlier)


@pytest.mark.slow
def test_optimum_says_what_it_cannot_export(bert, samples, earlier, tmp_path):
    config = json.loads((bert / "config.json").read_text()) | {"model_type": "bort"}
    broken = tmp_path / "broken"
    shutil.copytree(bert, broken)
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match="bort"):
        export_onnx(broken, earlier, task=TASK, samples=samples, progress=quiet)
    assert (earlier / MODEL).read_text() == "good"
