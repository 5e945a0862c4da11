"""JSON beside a model's weights: in a folder, beside a file, in the Hub's cache."""

import json

import huggingface_hub.constants
import pytest

from distil_nlp.errors import UnresolvedReferenceError
from distil_nlp.references import HubReference, read_json

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The cache of a repository of which all but ``unknown.json`` has been asked for."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--org--name"
    snapshot, absent = folder / "snapshots" / COMMIT, folder / ".no_exist" / COMMIT
    for each in (snapshot / "1_Pooling", absent, folder / "refs"):
        each.mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    (snapshot / "modules.json").write_text("[1]", encoding="utf-8")
    (snapshot / "1_Pooling" / "config.json").write_text('{"a": 2}', encoding="utf-8")
    (absent / "absent.json").touch()
    return HubReference("org/name")


def test_of_a_folder_and_beside_a_file(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"ä": [1, None]}), encoding="utf-8")
    (tmp_path / "weights.gguf").touch()
    for source in (tmp_path, tmp_path / "weights.gguf"):
        assert read_json(source, "a.json") == {"ä": [1, None]}
        assert read_json(source, "b.json") is None
        assert read_json(source, "1_Pooling/config.json") is None


def test_of_the_hub_without_a_connection(hub):
    assert read_json(hub, "modules.json") == [1]
    assert read_json(hub, "1_Pooling/config.json") == {"a": 2}
    assert read_json(hub, "absent.json") is None
    with pytest.raises(UnresolvedReferenceError, match="HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"):
        read_json(hub, "unknown.json")


def test_what_is_not_json_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("{a", encoding="utf-8")
    with pytest.raises(UnresolvedReferenceError, match=r"Cannot read 'a.json'.*\n.*not JSON"):
        read_json(tmp_path, "a.json")
