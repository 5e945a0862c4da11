"""The README's code is the code that runs here."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tiny_models import tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "docs" / "examples" / "quickstart.py"
PAGE = ROOT / "docs" / "python.md"


def quickstart() -> str:
    return re.search(r"# \[quickstart\]\n(.*)# \[/quickstart\]", EXAMPLE.read_text(encoding="utf-8"), re.DOTALL)[1]


def test_the_readme_shows_the_example_as_it_runs():
    assert f"```python\n{quickstart()}```" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_shows_the_recipe_as_it_ships():
    shown = re.search(
        r"```yaml\n# tasks/movie_sentiment.yaml, shortened\n(.*?)```", (ROOT / "README.md").read_text(), re.S
    )[1]
    shipped = [
        line.split("  #")[0].rstrip() for line in (ROOT / "tasks" / "movie_sentiment.yaml").read_text().splitlines()
    ]
    for line in filter(None, shown.splitlines()):
        assert line.split("  #")[0].rstrip() in shipped


def test_what_the_documentation_does_from_python(tmp_path, monkeypatch):
    pytest.importorskip("transformers.exporters", reason="early transformers 5 have no exporter")
    monkeypatch.chdir(tmp_path)
    words = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "good", "bad", "film"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
    )
    teacher = tiny_model(num_labels=2)
    teacher.save_pretrained("runs/movie_sentiment/teacher")
    fast.save_pretrained("runs/movie_sentiment/teacher")
    Path("train.csv").write_text("text,label\n" + "good film,1\nbad bad film,0\n" * 8)
    namespace: dict = {}
    exec(compile(quickstart(), str(EXAMPLE), "exec"), namespace)
    student = AutoModelForSequenceClassification.from_pretrained("runs/student")
    assert student.config.num_hidden_layers == 3
    assert not list(Path("runs/student").glob("objectives*"))
    Path("test.csv").write_text("text,label\n" + "good good film,1\nbad film,0\n" * 12)
    first, *others, last = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert first == quickstart()
    assert "Assembly" in last  # the notebook runs the like of it
    for block in others:
        exec(compile(block, str(PAGE), "exec"), namespace)
    assert namespace["logits"].shape == (24, 2)
    figures = json.loads(Path("runs/report.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in figures["rows"]}
    hits = (np.concatenate([out["logits"].argmax(-1) for out in namespace["outputs"]["student"]]) == [1, 0] * 12).mean()
    assert rows["student"]["metrics"]["accuracy"] == hits
    assert rows["onnx_int8"]["times_faster"] > 0
    assert figures["gain_over_control"]["control_same_start"]["rows"] == 24
    assert "my_student" in Path("runs/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["fine_tune.py", "distill.py"])
def test_programs_explain_themselves(name, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as stopped:
        exec(
            compile((ROOT / "trainers" / name).read_text(), name, "exec"), {"__name__": "__main__", "__doc__": "Help."}
        )
    assert stopped.value.code == 0
    assert "recipe" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{notebook.name}:{cell['id']}", "exec"), namespace)
    assert namespace["after"] > 0.5
    assert "of the teacher" in capsys.readouterr().out
