"""What an SBB's owner does on the datanode, with what is theirs there: it ends with the buffer and fills nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebb.model import Phase
from unit.dnd.datanode import GID, MIB, UID, Datanode
from unit.dnd.nfs4 import wait_for
from unit.dnd.test_sbb import create

pytestmark = pytest.mark.datanode

_DEPTH = 1500
_DIG = f"""
import os
try:
    for _ in range({_DEPTH}):
        os.mkdir("d", 0o700)
        os.chdir("d")
except OSError:
    pass  # no room for more
print("ready", flush=True)
"""
_LITTER = """
import itertools, os, time
print("ready", flush=True)
for n in itertools.count():
    try:
        open(f"litter{n % 50}", "w").close()
    except OSError:
        pass
"""
_FILL = """
import os
with open("filler", "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(1 << 20))
    except OSError as error:
        print(error.errno, file.tell(), flush=True)
try:
    for n in range(100000):
        open(f"file{n}", "w").close()
except OSError as error:
    print(error.errno, n, flush=True)
"""
_STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""
_DRIP = """
import os, socket, sys, threading, time
os.chdir(sys.argv[1])
os.unlink("control")
listener = socket.socket(socket.AF_UNIX)
listener.bind("control")
listener.listen(100)
print("ready", flush=True)

def drip(connection):
    try:
        while True:
            connection.sendall(b" ")
            time.sleep(0.2)
    except OSError:
        pass

while True:
    threading.Thread(target=drip, args=(listener.accept()[0],), daemon=True).start()
"""


class Programs:
    """Programs of the owner's, with a folder of theirs to work in."""

    def __init__(self) -> None:
        self.running: list[subprocess.Popen[str]] = []

    def start(self, program: str, *arguments: str, folder: Path = Path("/")) -> str:
        """Start one; the first line that it prints."""
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", program, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            user=UID,
            group=GID,
            extra_groups=[],
        )
        self.running.append(child)
        assert child.stdout is not None
        return child.stdout.readline()


@pytest.fixture
def programs() -> Iterator[Programs]:
    found = Programs()
    yield found
    for child in found.running:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def test_nothing_that_the_owner_left_there_keeps_a_buffer_or_its_number(datanode: Datanode, programs: Programs) -> None:
    own = create(datanode) / "own"
    programs.start(_DIG, folder=own)
    programs.start(_LITTER, folder=own)  # goes on while the folder is dropped, and after that
    assert datanode.destroy(discard=True).phase is Phase.GONE
    datanode.assert_nothing_left()  # its folder is gone: the number is free


def test_what_the_owner_writes_there_has_bounds(datanode: Datanode, programs: Programs) -> None:
    own = create(datanode) / "own"
    before = shutil.disk_usage(datanode.run).used
    errno_and_size = programs.start(_FILL, folder=own).split()
    assert errno_and_size[0] == "28" and int(errno_and_size[1]) <= 64 * MIB
    child = programs.running[0]
    assert child.stdout is not None
    errno_and_count = child.stdout.readline().split()
    assert errno_and_count[0] == "28" and int(errno_and_count[1]) < 200
    assert shutil.disk_usage(datanode.run).used - before < 8 * MIB
    line = next(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {own.parent} " in line)
    assert {"nosuid", "nodev", "noexec"} <= set(line.split()[5].split(","))
    (pid,) = datanode.sbbds()
    os.kill(pid, signal.SIGKILL)  # there is no room for what a new one needs
    wait_for(lambda: "No space left" in str(datanode.call("status", {"sid": "42"}).error), 20, "it is told")
    for file in own.glob("fil*"):
        file.unlink()
    wait_for(lambda: len(datanode.sbbds()) == 1, 30, "it is started as soon as there is")
    wait_for(lambda: datanode.call("status", {"sid": "42"}).error is None, 40, "all is well")
    datanode.destroy(discard=True)
    datanode.assert_nothing_left()


def test_many_processes_that_pass_for_the_server_end_together(datanode: Datanode, programs: Programs) -> None:
    config = create(datanode) / "sbbd.conf"
    for _ in range(6):
        assert programs.start(_STUBBORN, str(config)) == "ready\n"
    begun = time.monotonic()
    assert datanode.destroy(discard=True).phase is Phase.GONE
    assert time.monotonic() - begun < 15
    for child in programs.running:
        assert child.wait(5) == -signal.SIGKILL
    datanode.assert_nothing_left()


def test_a_folder_of_nobodys_is_dropped_however_deep_it_is(datanode: Datanode, programs: Programs) -> None:
    """One that is no file system of its own, too."""
    own = datanode.run / "sbb" / "77" / "own"
    own.mkdir(parents=True)
    os.chown(own, UID, GID)
    outside = datanode.home / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (own / "link").symlink_to(outside)
    programs.start(_DIG, folder=own)
    late = datanode.run / "sbb" / "78"  # comes after it
    late.mkdir()
    datanode.kill()
    datanode.start()
    wait_for(lambda: not own.parent.exists() and not late.exists(), 20, "both are gone")
    assert (outside / "kept").exists()


def test_one_that_drips_its_answers_holds_up_no_other(datanode: Datanode, programs: Programs) -> None:
    hostile = create(datanode, "1")
    create(datanode, "2")
    victims = {pid for pid in datanode.sbbds() if _config(pid) != str(hostile / "sbbd.conf")}
    programs.start(_DRIP, str(hostile / "own"))
    time.sleep(5)  # it is being listened to
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: _others(datanode, hostile) not in (set(), victims), 10, "the other is started again")
    for sid in ("1", "2"):
        assert datanode.destroy(sid, discard=True).phase is Phase.GONE
    datanode.assert_nothing_left()


def _config(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return words[words.index("--config") + 1]


def _others(datanode: Datanode, folder: Path) -> set[int]:
    return {pid for pid in datanode.sbbds() if _config(pid) != str(folder / "sbbd.conf")}
