"""Processes are told apart and ended for certain, whatever state they are in and whatever they call themselves."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dnd.tools import kernel, mounts, process
from dnd.tools.process import ProcessId
from ebb.errors import EnvironmentFault
from unit.dnd.nfs4 import wait_for

NOBODY = 65534
_NAMED = """
import ctypes, sys, time
ctypes.CDLL(None).prctl(15, bytes.fromhex(sys.argv[1]))  # PR_SET_NAME, see prctl(2)
print("ready", flush=True)
time.sleep(600)
"""
_FIRST_THREAD_ENDS = """
import ctypes, os, threading, time
held = os.open(".", os.O_RDONLY)
os.write(1, b"ready\\n")
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).pthread_exit(None)
"""
_STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, b"ready\\n")
time.sleep(600)
"""


@pytest.fixture
def start() -> Iterator[Callable[..., ProcessId]]:
    """Starts Python programs that say when they are ready; none is left."""
    running = []

    def begin(program: str, *arguments: str, uid: int = 0, folder: str = "/") -> ProcessId:
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", program, *arguments], stdout=subprocess.PIPE, user=uid, cwd=folder
        )
        running.append(child)
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        begun = process.start_of(child.pid)
        assert begun is not None
        return ProcessId(child.pid, begun)

    yield begin
    for child in running:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    place = tmp_path / "mounted"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], check=True)
    yield place
    while mounts.find(place) is not None:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_process_has_ended_when_the_last_of_its_threads_has(
    start: Callable[..., ProcessId], mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed, its first thread may be a zombie while another still has files open: to unmount them is too early."""
    monkeypatch.setattr(kernel, "BUSY_SECONDS", 0.0)
    server = start(_FIRST_THREAD_ENDS, folder=str(mounted))
    state = Path(f"/proc/{server.pid}/stat")
    wait_for(lambda: state.read_bytes().rpartition(b")")[2].split()[0] == b"Z", 10, "the first thread ends")
    assert server.alive
    process.stop(server, grace=0)
    assert process.start_of(server.pid) is None
    mounts.unmount(mounted)
    assert mounts.find(mounted) is None


def test_many_that_do_not_want_to_end_take_no_longer_than_one(start: Callable[..., ProcessId]) -> None:
    """A user may have as many as they like with our configuration on their command lines."""
    found = [start(_STUBBORN) for _ in range(6)] + [start(_NAMED, b"polite".hex())]
    gone = ProcessId(found[0].pid, found[0].start - 1)  # its pid is another's now
    begun = time.monotonic()
    process.stop_all([gone, *found], grace=1)
    assert 1 <= time.monotonic() - begun < 3
    assert [each for each in found if process.start_of(each.pid) is not None] == []


def test_a_process_that_is_not_the_one_meant_goes_on(start: Callable[..., ProcessId]) -> None:
    other = start(_NAMED, b"other".hex())
    process.stop(ProcessId(other.pid, other.start + 1), grace=0)
    time.sleep(0.1)
    assert other.alive


def test_a_process_with_any_name_hinders_nobody(start: Callable[..., ProcessId]) -> None:
    """Names are bytes, not text."""
    word = "test of names"
    server = start(_NAMED, b"\xff) Z 1".hex(), word)
    assert process.find(word) == [server]


def test_nobody_passes_for_root_by_name(start: Callable[..., ProcessId]) -> None:
    """What dnd finds with a service's configuration on its command line is taken for that service's server."""
    word = "test of users"
    server = start(_NAMED, b"\rUid: 0 0 0 0".hex(), word, uid=NOBODY)
    assert process.find(word) == []
    assert process.find(word, NOBODY) == [server]


def test_what_is_used_for_a_moment_is_unmounted_then(mounted: Path) -> None:
    """A health check looks at its free space, for example."""
    file = (mounted / "file").open("wb")
    later = threading.Timer(0.3, file.close)
    later.start()
    try:
        mounts.unmount(mounted)
    finally:
        later.join()
    assert file.closed and mounts.find(mounted) is None


def test_who_keeps_a_mount_busy_is_named(
    start: Callable[..., ProcessId], mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "BUSY_SECONDS", 0.2)
    user = start(_NAMED, b"user".hex(), folder=str(mounted))
    begun = time.monotonic()
    told = rf"mounted cannot be unmounted \(.*busy\); in use by processes {user.pid}"
    with pytest.raises(EnvironmentFault, match=told):
        mounts.unmount(mounted)
    assert time.monotonic() - begun >= 0.2
    assert mounts.find(mounted) is not None
