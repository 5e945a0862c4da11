"""Shards on disk: whole or not there, whatever happens to the process, the disk or the file."""

import multiprocessing
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_runs import CPU, LOGITS, collate, counted, rows_of_lengths
from tiny_models import tiny_model

from distil_nlp.errors import TrainingError
from distil_nlp.signals import Needs
from distil_nlp.teachers import StoredTeacher, store
from distil_nlp.teachers.store import OutputStore


def row(number):
    return {
        "a": np.full((number % 3, 2), number, dtype=np.float32),
        "b": np.arange(number + 1, dtype=np.int8),
        "c": np.array([number / 7], dtype=np.float64),
    }


def key(number):
    return number.to_bytes(16, "big")


def assert_holds(opened, numbers):
    for number in numbers:
        found = opened.get(key(number))
        assert set(found) == {"a", "b", "c"}
        for name, expected in row(number).items():
            assert found[name].dtype == expected.dtype
            np.testing.assert_array_equal(found[name], expected)


def filled(folder, numbers, *, every=4, **options):
    opened = OutputStore(folder, **options)
    for number in numbers:
        opened.add(key(number), row(number))
        if number % every == every - 1:
            opened.flush()
    return opened


def shards(folder):
    return sorted(folder.glob("shard-*.safetensors"))


def test_rows_are_found_waiting_written_and_by_another_process(tmp_path):
    first = filled(tmp_path, range(10), rank=0)
    assert (len(shards(tmp_path)), len(first)) == (2, 10)
    assert_holds(first, range(10))
    second = OutputStore(tmp_path, rank=1)
    assert_holds(second, range(8))
    assert second.get(key(9)) is None
    first.flush()
    second.add(key(9), row(9))
    second.add(key(20), row(20))
    second.flush()
    second.flush()
    first.refresh()
    assert_holds(first, [9, 20])
    assert_holds(OutputStore(tmp_path), [*range(10), 20])
    assert len(OutputStore(tmp_path)) == 11
    assert [path.name.split("-")[1] for path in shards(tmp_path)] == ["0", "0", "0", "1"]
    assert first.num_bytes == sum(path.stat().st_size for path in shards(tmp_path))


def test_shards_are_plain_safetensors(tmp_path):
    filled(tmp_path, range(4))
    arrays = load_file(shards(tmp_path)[0])
    assert arrays["keys"].tobytes() == b"".join(key(number) for number in range(4))
    assert arrays["b.counts"].tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(arrays["b"], np.concatenate([row(number)["b"] for number in range(4)]))


def test_a_shard_is_written_when_there_is_enough_or_it_is_time(tmp_path, monkeypatch):
    opened, each = OutputStore(tmp_path), store.row_bytes(row(7))
    monkeypatch.setattr(store, "SHARD_BYTES", 2 * each + 1)
    for number, written in ((7, 0), (107, 0), (207, 1), (307, 1)):
        opened.add(key(number), row(7))
        assert len(shards(tmp_path)) == written
    monkeypatch.setattr(store, "SHARD_SECONDS", 0.0)
    opened.add(key(8), row(8))
    assert len(shards(tmp_path)) == 2


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def spoil_keys(path):
    start = path.read_bytes().index(key(2)[-8:] + key(3)[:8])
    flip(path, start)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: flip(path, -1),
        lambda path: flip(path, 20),
        lambda path: flip(path, path.read_bytes().index(b'"keys"') + 2),
        spoil_keys,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff" * 500),
        lambda path: path.write_bytes(b"\x02\0\0\0\0\0\0\0[]" + b" " * 100),
    ],
)
def test_rows_of_a_damaged_shard_are_not_stored(tmp_path, damage, caplog):
    filled(tmp_path, range(8))
    bad = next(path for path in shards(tmp_path) if path.name.split("-")[3] == "00000")
    damage(bad)
    opened = OutputStore(tmp_path)
    assert all(opened.get(key(number)) is None for number in range(4))
    assert_holds(opened, range(4, 8))
    for number in range(4):
        opened.add(key(number), row(number))
    opened.flush()
    assert_holds(opened, range(8))
    assert_holds(OutputStore(tmp_path), range(8))
    assert not bad.exists()
    assert Path(f"{bad}.damaged").exists()


def test_a_row_that_is_stored_twice_survives_one_damaged_shard(tmp_path):
    ours, theirs = OutputStore(tmp_path), OutputStore(tmp_path)
    for opened in (ours, theirs):
        opened.add(key(1), row(1))
        opened.flush()
    for path in shards(tmp_path):
        copy = path.read_bytes()
        flip(path, -1)
        assert_holds(OutputStore(tmp_path), [1])
        Path(f"{path}.damaged").unlink(missing_ok=True)
        path.write_bytes(copy)


def test_a_disk_that_fills_up_in_mid_shard(tmp_path):
    """A limit on the size of files stops the writing as a full disk does."""
    opened = filled(tmp_path, range(4))
    opened.add(key(50), {**row(50), "a": np.zeros((100_000, 2), dtype=np.float32)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(TrainingError, match=r"(?s)cannot be written.*kept"):
            opened.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(list(tmp_path.iterdir())) == 1
    opened.flush()
    assert_holds(opened, range(4))
    assert opened.get(key(50)) is None
    filled(tmp_path, range(60, 64))
    assert_holds(OutputStore(tmp_path), [*range(4), *range(60, 64)])


def test_what_nobody_finished_is_deleted_after_a_while(tmp_path):
    old, new = tmp_path / ".shard-0-x.1.partial", tmp_path / ".shard-0-y.2.partial"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 7200,) * 2)
    OutputStore(tmp_path)
    assert (old.exists(), new.exists()) == (False, True)


def write_for_ever(folder):
    store.SHARD_BYTES = 4000
    opened = OutputStore(folder)
    for number in range(10**6):
        opened.add(key(number), row(number % 100))


def test_a_process_killed_while_it_writes(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=write_for_ever, args=[tmp_path])
    process.start()
    while len(shards(tmp_path)) < 20:
        time.sleep(0.001)
    process.kill()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    opened = OutputStore(tmp_path)
    assert len(opened) > 20
    for number in range(len(opened)):  # all of the first, and nothing torn
        np.testing.assert_array_equal(opened.get(key(number))["b"], row(number % 100)["b"])
    assert not list(tmp_path.glob("*.damaged"))


# ---- through a teacher ----


def test_a_teacher_computes_damaged_rows_anew(tmp_path):
    rows = rows_of_lengths()
    model = tiny_model(seed=2)
    seen = counted(model)
    StoredTeacher(model, tmp_path).fill(rows, collate, batch_size=12, needs=LOGITS)
    expected = StoredTeacher(model, tmp_path)
    expected.prepare(LOGITS, CPU)
    logits = expected(collate(rows), LOGITS).logits
    flip(next(tmp_path.glob("*/shard-*")), -1)
    again = StoredTeacher(model, tmp_path)
    again.prepare(LOGITS, CPU)
    assert sum(seen) == 12
    np.testing.assert_array_equal(again(collate(rows), LOGITS).logits, logits)
    assert sum(seen) == 24


def test_an_interrupted_filling_goes_on_where_it_was(tmp_path):
    rows, model = rows_of_lengths(), tiny_model(seed=2)
    seen = counted(model)

    def interrupted(some):
        if len(seen) == 2:
            raise KeyboardInterrupt
        return collate(some)

    with pytest.raises(KeyboardInterrupt):
        StoredTeacher(model, tmp_path).fill(rows, interrupted, batch_size=3, needs=LOGITS)
    StoredTeacher(model, tmp_path).fill(rows, collate, batch_size=3, needs=LOGITS)
    assert seen == [3] * 4


def test_a_size_beyond_the_budget_or_the_disk_is_refused_at_the_first_batch(tmp_path, monkeypatch):
    rows, model = rows_of_lengths((12,) * 40), tiny_model(seed=2)
    needs = Needs(hidden_states=frozenset({1, 2}))
    each = 12 * 2 * 32 * 4 + 16
    stored = StoredTeacher(model, tmp_path, budget_mb=each * 20 / 1e6)
    with pytest.raises(TrainingError, match=r"(?s)40 rows.*about 0.1 MB \(3.1 kB a row\).*dtype='float16'"):
        stored.fill(rows, collate, batch_size=4, needs=needs)
    assert not list(tmp_path.glob("*/shard-*"))
    stored = StoredTeacher(model, tmp_path, budget_mb=each * 20 / 1e6)  # nobody says how many there will be
    stored.prepare(needs, CPU)
    for start in (0, 4, 8, 12):
        stored(collate(rows[start : start + 4]), needs)
    with pytest.raises(TrainingError, match="budget_mb"):
        stored(collate(rows[16:]), needs)
    assert stored.num_rows == 16
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("distil_nlp.teachers.recording.shutil.disk_usage", lambda path: usage._replace(free=100_000))
    stored = StoredTeacher(model, tmp_path / "other")
    stored.expected_rows = 40
    stored.prepare(needs, CPU)
    with pytest.raises(TrainingError, match="free on the disk"):
        stored(collate(rows[:4]), needs)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="Name another folder"):
        StoredTeacher(tiny_model(), tmp_path / "file").prepare(LOGITS, CPU)
