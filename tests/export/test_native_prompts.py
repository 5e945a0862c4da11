"""Graphs of transformers' exporter continue prompts that are padded in front as transformers does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_generate import PROMPTS, expected, model_of

from distil_nlp.export import export_onnx, generate, open_onnx


def test_padded_prompts_have_the_positions_that_they_have_alone(tmp_path) -> None:
    pytest.importorskip("transformers.exporters", reason="early transformers 5 have no exporter")
    model = model_of("gpt2", n_layer=1)
    model.save_pretrained(tmp_path / "model")
    samples = [{"input_ids": np.arange(5, 19).reshape(2, 7), "attention_mask": np.array([[1] * 7, [1] * 4 + [0] * 3])}]
    exported = export_onnx(
        tmp_path / "model",
        tmp_path / "onnx",
        task="text-generation",
        backend="native",
        quantization=None,
        samples=samples,
        progress=lambda line: None,
    )
    graph = open_onnx(exported.onnx)
    written = generate(graph, PROMPTS, max_new_tokens=10)
    np.testing.assert_array_equal(written, expected(model, 10))
    alone = torch.from_numpy(PROMPTS["input_ids"][:1, 2:])
    made = model.generate(alone, attention_mask=torch.ones_like(alone), max_new_tokens=10, do_sample=False)[:, 3:]
    np.testing.assert_array_equal(written[:1], made.numpy())
