"""Many shards, and files that cannot be read at the moment: no work is given up for either."""

import errno
import os
import resource
import time
from contextlib import contextmanager

import numpy as np
import pytest

from distil_nlp.errors import TrainingError
from distil_nlp.teachers import store
from distil_nlp.teachers.store import OutputStore


def key(number):
    return number.to_bytes(16, "big")


def filled(folder, shards):
    opened = OutputStore(folder)
    for number in range(shards):
        opened.add(key(number), {"a": np.full((2, 3), number, dtype=np.float32)})
        opened.flush()
    return opened


def assert_holds(opened, shards):
    rows = [opened.get(key(number)) for number in range(shards)]
    for number, array in enumerate([row["a"] for row in rows]):  # all of them at a time
        np.testing.assert_array_equal(array, np.full((2, 3), number, dtype=np.float32))


@contextmanager
def descriptors(more):
    """As many files can be opened, beside those that are open."""
    limits, spare = resource.getrlimit(resource.RLIMIT_NOFILE), os.open(os.devnull, os.O_RDONLY)
    os.close(spare)  # the lowest number that is free
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_more_shards_than_files_that_may_be_open(tmp_path):
    with descriptors(16):
        first = filled(tmp_path, 100)
        assert_holds(first, 100)
        assert_holds(OutputStore(tmp_path), 100)
    assert len(list(tmp_path.glob("shard-*.safetensors"))) == len(list(tmp_path.iterdir())) == 100


@pytest.mark.parametrize("at", ["listing", "mapping", "checking"])
def test_too_many_open_files_are_no_damage(tmp_path, monkeypatch, at):
    filled(tmp_path, 3)
    names = os.listdir(tmp_path)
    opened = OutputStore(tmp_path)
    with monkeypatch.context() as patch:
        if at == "mapping":
            patch.setattr(store.os, "listdir", lambda folder: names)
        with descriptors(0), pytest.raises(TrainingError, match=r"(?s)Too many open files.*ulimit.*is kept"):
            opened.get(key(0)) if at == "checking" else OutputStore(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    assert_holds(opened, 3)
    assert_holds(OutputStore(tmp_path), 3)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOMEM])
def test_a_shard_that_cannot_be_checked_now_is_kept(tmp_path, monkeypatch, number):
    def refuses(path):
        raise OSError(number, os.strerror(number))

    filled(tmp_path, 2)
    opened = OutputStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(store, "crc32_of", refuses)
        with pytest.raises(TrainingError, match=os.strerror(number)):
            opened.get(key(1))
    assert_holds(opened, 2)


def test_what_is_no_file_is_not_renamed(tmp_path):
    filled(tmp_path, 1)
    folder = tmp_path / "shard-0-x-00000-00000000.safetensors"
    folder.mkdir()
    with pytest.raises(TrainingError, match=folder.name):
        OutputStore(tmp_path)
    assert folder.exists()


def test_a_shard_that_has_gone_is_not_stored(tmp_path):
    filled(tmp_path, 2)
    opened = OutputStore(tmp_path)
    first = next(path for path in tmp_path.iterdir() if "-00000-" in path.name)
    first.unlink()
    assert opened.get(key(0)) is None
    assert opened.get(key(1)) is not None


def test_a_folder_that_nobody_has_changed_is_not_looked_through_again(tmp_path, monkeypatch):
    ours, theirs = OutputStore(tmp_path), OutputStore(tmp_path, rank=1)
    looked = []
    listdir = os.listdir

    def watched(folder):
        looked.append(folder)
        return listdir(folder)

    monkeypatch.setattr(store.os, "listdir", watched)
    monkeypatch.setattr(store, "LOOK_SECONDS", 60.0)
    for _ in range(20):
        ours.refresh()
    assert len(looked) <= 1
    time.sleep(0.05)  # longer than a tick of the file system's clock
    theirs.add(key(1), {"a": np.ones((1, 1), dtype=np.float32)})
    theirs.flush()
    ours.refresh()
    assert ours.get(key(1)) is not None
    changed = tmp_path.stat()
    theirs.add(key(2), {"a": np.ones((1, 1), dtype=np.float32)})
    theirs.flush()
    os.utime(tmp_path, ns=(changed.st_atime_ns, changed.st_mtime_ns))  # as if in the same tick
    monkeypatch.setattr(store, "LOOK_SECONDS", 0.0)
    ours.refresh()
    assert ours.get(key(2)) is not None
