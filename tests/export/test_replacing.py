"""What an export may replace, and what is there after an interrupt."""

from __future__ import annotations

from pathlib import Path

import pytest

from distil_nlp.errors import ExportError
from distil_nlp.export import onnx_export


def test_an_interrupt_right_after_the_earlier_export_was_put_away_brings_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, earlier, old = tmp_path / "scratch" / "new", tmp_path / "onnx", tmp_path / "scratch" / "old"
    made.mkdir(parents=True)
    earlier.mkdir()
    (earlier / "model.onnx").write_text("good")
    rename = onnx_export.os.replace

    def interrupted(source: Path, target: Path) -> None:
        rename(source, target)
        if Path(source) == earlier:
            raise KeyboardInterrupt

    monkeypatch.setattr(onnx_export.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        onnx_export._move_into_place(made, earlier, old)
    assert (earlier / "model.onnx").read_text() == "good"


@pytest.mark.parametrize(
    ("left", "replaced"),
    [
        (["model_quantized.onnx", "config.json"], True),  # the float32 graph is often deleted: nothing ships it
        (["encoder_model_quantized.onnx", "decoder_model_merged_quantized.onnx"], True),
        (["model.onnx"], True),
        (["encoder_model.onnx"], False),
        (["config.json"], False),
    ],
)
def test_an_export_is_known_by_the_graphs_of_either_precision(tmp_path: Path, left: list[str], replaced: bool) -> None:
    for name in left:
        (tmp_path / name).write_text("x")
    if replaced:
        onnx_export._check_output(tmp_path, tmp_path.parent / "model")
    else:
        with pytest.raises(ExportError, match="not an earlier export"):
            onnx_export._check_output(tmp_path, tmp_path.parent / "model")
