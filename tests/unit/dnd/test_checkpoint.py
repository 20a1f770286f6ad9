"""Checkpoints: only what was surely written counts, and a sync that failed is never forgotten."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnd.staging import checkpoint
from dnd.staging.checkpoint import Checkpoints, Keeper, Saved

DIGESTS = [bytes([n]) * 32 for n in range(8)]


class Disk:
    """A target that notes how often it was synced; failing: the next sync reports a write that was lost."""

    def __init__(self) -> None:
        self.syncs = 0
        self.failing = False

    def write(self, view: memoryview, offset: int) -> None:
        raise AssertionError("checkpoints write nothing")

    def passed(self, chunk: int) -> None:
        raise AssertionError("checkpoints copy nothing")

    def sync(self) -> None:
        self.syncs += 1
        if self.failing:
            self.failing = False  # as the kernel: it tells a lost write once
            raise OSError(errno.EIO, "Input/output error")


@pytest.fixture()
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "staging/volume.out")


def test_what_was_added_is_there_and_nothing_after_forget(checkpoints: Checkpoints) -> None:
    assert checkpoints.load() is None
    checkpoints.begin({"volume": "v"})
    checkpoints.add([(3, DIGESTS[3]), (1, DIGESTS[1])])
    checkpoints.add([(7, DIGESTS[7])])
    assert checkpoints.load() == Saved({"volume": "v"}, {n: DIGESTS[n] for n in (3, 1, 7)})
    checkpoints.begin({"volume": "w"})
    assert checkpoints.load() == Saved({"volume": "w"}, {})
    checkpoints.forget()
    checkpoints.forget()
    assert checkpoints.load() is None


@given(length=st.integers(0, 700))
def test_a_file_cut_anywhere_tells_nothing_that_is_not_so(
    tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "volume.out"
    checkpoints = Checkpoints(path)
    checkpoints.begin({"volume": "v"})
    checkpoints.add(enumerate(DIGESTS))
    path.write_bytes(path.read_bytes()[:length])
    saved = checkpoints.load()
    if saved is not None:
        assert saved.identity == {"volume": "v"}
        assert all(DIGESTS[number] == digest for number, digest in saved.done.items())


def test_chunks_are_noted_after_a_sync_also_when_the_copy_fails(checkpoints: Checkpoints) -> None:
    disk = Disk()
    checkpoints.begin({})
    with pytest.raises(ZeroDivisionError), Keeper(checkpoints, disk) as keeper:
        keeper.note(1, DIGESTS[1])
        raise ZeroDivisionError
    saved = checkpoints.load()
    assert saved is not None and saved.done == {1: DIGESTS[1]} and disk.syncs == 1


def test_a_failed_sync_ends_the_copy_and_its_chunks_do_not_count(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS", 0.01)
    disk = Disk()
    disk.failing = True
    checkpoints.begin({})
    with pytest.raises(OSError, match="Input/output error"), Keeper(checkpoints, disk) as keeper:
        for _ in range(1_000_000):
            keeper.note(1, DIGESTS[1])
    saved = checkpoints.load()
    assert saved is not None and saved.done == {}
