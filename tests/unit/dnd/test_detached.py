"""Reading from a file system that does not answer holds nobody who need not wait."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dnd.staging import detached
from dnd.staging.copy import chunks, copy_chunks
from dnd.staging.detached import bounded, cancellable
from dnd.staging.ends import FileSource, FileTarget
from dnd.staging.progress import Cancelled, Tracker
from ebb.errors import EnvironmentFault
from unit.dnd.nfs4 import wait_for
from unit.fuse import served

MIB = 1 << 20


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[int]:
    """A file of a network file system, as it were, whose server went away after it was opened."""
    (tmp_path / "mnt").mkdir()
    with served(tmp_path / "mnt", 0, hangs=False, size=4 * MIB):
        descriptor = os.open(tmp_path / "mnt/x", os.O_RDONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    wait_for(lambda: not any("detached" in each.name for each in threading.enumerate()), 10, "given up threads end")


def test_a_header_that_does_not_come_is_an_error(silent: int) -> None:
    begun = time.monotonic()
    with pytest.raises(EnvironmentFault, match=r"x: its file system did not answer within 0\.3 s"):
        bounded(lambda: os.pread(silent, 100, 0), 0.3, "x")
    assert time.monotonic() - begun < 5


def test_a_copy_that_hangs_can_be_cancelled(silent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detached, "GRACE_SECONDS", 0.3)
    stop = threading.Event()
    tracker = Tracker(cancel=stop)
    with (tmp_path / "target").open("w+b") as target:

        def copy() -> None:
            source, end = FileSource(silent), FileTarget(target.fileno())
            copy_chunks(source, end, chunks(4 * MIB, MIB), tracker, lambda chunk, digest: None)

        threading.Timer(0.5, stop.set).start()
        begun = time.monotonic()
        with pytest.raises(Cancelled):
            cancellable(copy, tracker)
        assert time.monotonic() - begun < 5
        stop.clear()
        assert tracker.cancelled, "given up for good, though the next work of the service may go on"


def test_results_and_errors_come_through() -> None:
    assert cancellable(lambda: 5, Tracker()) == 5
    for error in (TimeoutError("its own"), Cancelled()):

        def fails(error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error)):
            cancellable(fails, Tracker())
        with pytest.raises(type(error)):
            bounded(fails, 5, "x")
