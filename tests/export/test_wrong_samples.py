"""What a first export gets wrong."""

import pytest
from tiny_models import tiny_model

from distil_nlp.errors import ExportError
from distil_nlp.export import export_onnx, open_onnx

BATCH = {"input_ids": [[5, 6]], "attention_mask": [[1, 1]]}


@pytest.mark.parametrize("samples", [BATCH, ["a text"], (batch for batch in [BATCH]), [], "a text"])
def test_samples_are_a_list_of_batches(tmp_path, samples):
    tiny_model().save_pretrained(tmp_path / "model")
    with pytest.raises(ExportError, match=r"(?s)batches.*\[tokenizer\(texts, padding=True"):
        export_onnx(f"{tmp_path}/model", tmp_path / "onnx", task="text-classification", samples=samples)
    assert not (tmp_path / "onnx").exists()


def test_a_folder_is_not_a_graph(tmp_path):
    with pytest.raises(ExportError, match=r"(?s)It is a folder.*find_graphs"):
        open_onnx(tmp_path)
