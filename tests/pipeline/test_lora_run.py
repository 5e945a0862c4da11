"""A whole run whose student and control train adapters only."""

import json

import pytest
from tiny_run import command
from transformers import AutoModelForSequenceClassification

pytest.importorskip("peft")


def test_a_student_with_adapters(case, tmp_path):
    recipe = case.recipe(tmp_path, student={"num_layers": 2, "lora": {"rank": 2}}, control=True, export=None)
    outcome = command("run", recipe, "--output-dir", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    costs = {
        stage["name"]: stage["parameters"]
        for stage in json.loads((tmp_path / "run" / "report.json").read_text())["cost"]
    }
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "student")
    whole = sum(parameter.numel() for parameter in model.parameters())
    assert costs["distill"] == costs["control"] < whole / 2
    assert not (tmp_path / "run" / "student" / "adapter_config.json").exists()
