"""What counts as the same output, and what padding may do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, save
from torch import nn

from distil_nlp.errors import ExportError
from distil_nlp.export import compare, make_session, onnx_logits, open_onnx, torch_logits

BATCH = {"input_ids": np.array([[5, 6, 0], [7, 8, 9]]), "attention_mask": np.array([[1, 1, 0], [1, 1, 1]])}


def graph_that_adds(path, names):
    """An ONNX graph whose ``logits`` is the sum of its inputs, as floats."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in names]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "tokens"])
    total, nodes = names[0], []
    for name in names[1:]:
        nodes.append(helper.make_node("Add", [total, name], [f"{total}+{name}"]))
        total = f"{total}+{name}"
    nodes.append(helper.make_node("Cast", [total], ["logits"], to=TensorProto.FLOAT))
    graph = helper.make_graph(nodes, "sum", inputs, [output])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_padding_does_not_count():
    logits = np.arange(24.0).reshape(2, 3, 4)
    other = logits.copy()
    other[0, 2] += 100
    result = compare([{"logits": logits}], [{"logits": other}], [BATCH])
    assert result.max_abs_diff == 0
    assert result.agreement == 1


def test_real_tokens_count():
    logits = np.arange(24.0).reshape(2, 3, 4)
    other = logits.copy()
    other[1, 2, 0] += 100
    result = compare([{"logits": logits}], [{"logits": other}], [BATCH])
    assert result.max_abs_diff == 100
    assert result.largest == 23
    assert result.agreement == 4 / 5


def test_classes_are_not_mistaken_for_tokens():
    """Three classes and three tokens: the third class of the first text is not padding."""
    logits = np.zeros((2, 3))
    other = logits + np.array([[0, 0, 1], [0, 0, 0]])
    assert compare([{"logits": logits}], [{"logits": other}], [BATCH]).max_abs_diff == 1


def test_spans_are_chosen_among_real_tokens():
    start = np.array([[1.0, 0.0, 9.0], [0.0, 1.0, 0.0]])
    other = np.array([[1.0, 0.0, -9.0], [1.0, 0.0, 0.0]])
    names = ("start_logits", "end_logits")
    result = compare([dict.fromkeys(names, start)], [dict.fromkeys(names, other)], [BATCH])
    assert result.max_abs_diff == 1
    assert result.agreement == 0.5


def test_tolerance_is_a_share_of_the_largest_output_and_nan_is_outside():
    small = compare([{"logits": np.full((2, 3), 0.01)}], [{"logits": np.full((2, 3), 0.011)}], [BATCH])
    assert not small.within(1e-2)
    assert small.within(0.2)
    missing = compare([{"logits": np.ones((2, 3))}], [{"logits": np.full((2, 3), np.nan)}], [BATCH])
    assert not missing.within(1e9)


def test_a_value_predicts_no_class():
    assert compare([{"logits": np.ones((2, 1))}], [{"logits": np.ones((2, 1))}], [BATCH]).agreement is None


@pytest.mark.parametrize("other", [{"scores": np.zeros((2, 3))}, {"logits": np.zeros((2, 4))}])
def test_other_names_or_shapes_are_an_error(other):
    with pytest.raises(ExportError, match=r"'logits' \(2, 3\)"):
        compare([{"logits": np.zeros((2, 3))}], [other], [BATCH])


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ExportError, match="no batches"):
        compare([], [], [])


def test_graph_gets_only_the_inputs_that_it_has(tmp_path):
    path = graph_that_adds(tmp_path / "m.onnx", ["input_ids"])
    (output,) = onnx_logits(path, [BATCH], threads=1)
    assert output["logits"].tolist() == [[5, 6, 0], [7, 8, 9]]


def test_graph_gets_positions_counted_over_real_tokens(tmp_path):
    left = {"input_ids": np.array([[0, 5, 6]]), "attention_mask": np.array([[0, 1, 1]])}
    path = graph_that_adds(tmp_path / "m.onnx", ["input_ids", "position_ids", "token_type_ids"])
    assert open_onnx(path).complete(left)["position_ids"].tolist() == [[0, 0, 1]]
    assert onnx_logits(path, [left])[0]["logits"].tolist() == [[0, 5, 7]]


def test_missing_input_is_named(tmp_path):
    path = graph_that_adds(tmp_path / "m.onnx", ["input_ids", "pixel_values"])
    with pytest.raises(ExportError, match="pixel_values"):
        onnx_logits(path, [BATCH])


def test_session_keeps_to_its_threads_and_refuses_what_it_cannot_load(tmp_path):
    session = make_session(graph_that_adds(tmp_path / "m.onnx", ["input_ids"]), 1)
    assert session.get_session_options().intra_op_num_threads == 1
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "m.onnx").read_bytes()[:40])
    for name in ("cut.onnx", "absent.onnx"):
        with pytest.raises(ExportError, match=name):
            make_session(tmp_path / name)


def test_pytorch_gets_only_what_its_forward_takes():
    class Model(nn.Module):
        def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": input_ids.float()}

    assert torch_logits(Model(), [BATCH])[0]["logits"].tolist() == [[5, 6, 0], [7, 8, 9]]
