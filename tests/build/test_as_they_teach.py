"""A teacher that was fine-tuned in float32 teaches in the dtype that the recipe says."""

import pytest
import torch
from tiny_models import tiny_model
from tiny_seq2seq import CONFIGS
from transformers import AutoModelForSeq2SeqLM

from distil_nlp.build.teaching import as_they_teach
from distil_nlp.recipe import Recipe

TEXT = """\
task: {name: text-classification, dataset: rows.csv}
teacher:
  model: org/teacher
  fine_tune: {}
  dtype: float16
  ensemble:
    members:
      - {model: org/second, dtype: bfloat16}
student: {num_layers: 2}
"""


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_it_is_as_it_would_be_loaded(tmp_path, family, dtype):
    """Frequencies of rotary positions, and in float16 some weights of T5, stay in float32."""
    (tmp_path / "recipe.yaml").write_text(TEXT, encoding="utf-8")
    recipe = Recipe.load(tmp_path / "recipe.yaml", [f"teacher.dtype={dtype}"])
    exact = tiny_model(family) if family != "t5" else AutoModelForSeq2SeqLM.from_config(CONFIGS["t5"]()).eval()
    before = {name: tensor.clone() for name, tensor in exact.state_dict().items()}
    if exact.can_generate():
        exact.generation_config.max_new_tokens = 7
    models = {"teacher_1": exact, "teacher_2": exact, "student": exact}
    found = as_they_teach(recipe, models)
    made = found.pop("teacher_1")
    assert found.pop("student") is exact
    assert found.pop("teacher_2").dtype == torch.bfloat16
    assert as_they_teach(recipe, {"teacher_1": made})["teacher_1"] is made
    exact.save_pretrained(tmp_path / "saved")
    loaded = type(exact).from_pretrained(tmp_path / "saved", dtype=dtype)
    expected = {**loaded.state_dict(), **dict(loaded.named_buffers())}
    got = {**made.state_dict(), **dict(made.named_buffers())}
    assert got.keys() == expected.keys()
    assert all(got[name].dtype == each.dtype and torch.equal(got[name], each) for name, each in expected.items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in exact.state_dict().items())
    assert not made.training
    if exact.can_generate():
        assert made.generation_config.max_new_tokens == 7
