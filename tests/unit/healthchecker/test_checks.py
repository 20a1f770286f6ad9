"""Each check finds what it is for, on a real volume, XFS and Ganesha that are really broken."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebb.model import Status
from unit.dnd.datanode import Datanode
from unit.healthchecker.programs import the_checker

pytestmark = pytest.mark.datanode
_SOURCES = Path(__file__).parents[3]


class Checked:
    """A service of a real dnd, registered; the daemon itself is dead, so that nobody mends what a test breaks."""

    def __init__(self, datanode: Datanode) -> None:
        checker = str(the_checker(datanode.folder))
        datanode.call("create_persistent", {**datanode.spec(), "healthchecker": checker})
        self.status: Status = datanode.settled()
        assert self.status.mount is not None, self.status
        datanode.kill()
        self.datanode = datanode
        self.database = datanode.state / "health.json"
        self.data = Path(self.status.mount.data)
        self.volume = next((datanode.state / "volumes/ebb").iterdir())
        [self.ganesha] = datanode.ganeshas()

    def check(self, *words: str, seconds: float = 25) -> tuple[int, list[str]]:
        """Exit code and lines."""
        argv = [sys.executable, "-m", "healthchecker", "--database", str(self.database), "check", *(words or ("42",))]
        done = subprocess.run(argv, cwd=_SOURCES, capture_output=True, text=True, timeout=seconds)
        return done.returncode, (done.stdout + done.stderr).splitlines()

    def fails(self, *parts: str, level: str = "FAILED", code: int = 2) -> None:
        """One check complains, its line has all the parts, and the database has what it said."""
        found, lines = self.check()
        assert found == code and len(lines) == 1, (found, lines)
        prefix = f"{level}: service 42 (buffer42, gbf): "
        assert lines[0].startswith(prefix), lines
        assert all(part in lines[0] for part in parts), lines
        assert self.entry()["check_results"] == [f"{level} {lines[0].removeprefix(prefix)}"]

    def entry(self) -> dict[str, Any]:
        [entry] = json.loads(self.database.read_text())
        assert isinstance(entry, dict)
        return entry


@pytest.fixture
def service(datanode: Datanode) -> Iterator[Checked]:
    checked = Checked(datanode)
    yield checked


def test_all_is_well(service: Checked) -> None:
    assert service.check() == (0, [])
    assert service.check("all") == (0, [])
    prefix = "OK: service 42 (buffer42, gbf):"
    names = ("volume", "pool", "mount", "ganesha", "space")
    assert service.check("42", "-v") == (0, [f"{prefix} {name}" for name in names])
    assert service.entry()["check_results"] == ["OK"]
    recovery = service.data.parent / "recovery"
    assert [path for path in recovery.rglob("*") if path.is_dir() and "ebb " in path.name] == []


def test_ganesha_is_dead(service: Checked) -> None:
    os.kill(service.ganesha, signal.SIGKILL)
    service.fails("ganesha: Ganesha (process", "is not alive")


def test_ganesha_takes_connections_but_does_not_answer(service: Checked) -> None:
    os.kill(service.ganesha, signal.SIGSTOP)
    begin = time.monotonic()
    service.fails("ganesha:", "stopped by a signal", "does not answer (no answer within 5 s)")
    assert time.monotonic() - begin < 9
    os.kill(service.ganesha, signal.SIGCONT)
    assert service.check() == (0, [])


def test_another_process_has_its_process_id(service: Checked) -> None:
    entries = [{**service.entry(), "daemons": [{"pid": os.getpid()}]}]
    service.database.write_text(json.dumps(entries))
    service.fails("ganesha: process", "no Ganesha")


def test_the_export_is_not_served(service: Checked) -> None:
    config = service.data.parent / "ganesha.conf"
    text = config.read_text()
    config.write_text(text.replace("Pseudo = /ganesha_1;", "Pseudo = /ganesha_9;"))
    service.fails("ganesha:", "a lookup of /ganesha_9 fails")


def test_ganesha_serves_something_else(service: Checked) -> None:
    config = service.data.parent / "ganesha.conf"
    config.write_text(config.read_text().replace(f'Path = "{service.data}"', 'Path = "/elsewhere"'))
    service.fails("ganesha:", "serves /elsewhere, not this service")


def test_the_file_system_is_unmounted(service: Checked) -> None:
    os.kill(service.ganesha, signal.SIGKILL)
    subprocess.run(["umount", "--lazy", str(service.data)], check=True)
    code, lines = service.check()
    assert code == 2
    assert any(f"mount: nothing is mounted on {service.data}" in line for line in lines), lines
    assert any("ganesha: " in line for line in lines), lines


def test_something_is_mounted_over_it(service: Checked) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(service.data)], check=True)
    service.fails("mount:", f"{service.data} is a mount of tmpfs, not of volume")


def test_the_volume_was_removed(service: Checked) -> None:
    service.volume.unlink()
    code, lines = service.check()
    assert code == 2
    assert any("volume: volume" in line and "is not there" in line for line in lines), lines
    assert any("mount:" in line for line in lines), lines


def test_the_volume_was_shrunk(service: Checked) -> None:
    size = service.volume.stat().st_size
    os.truncate(service.volume, size - (1 << 20))
    service.fails("volume:", f"has {size - (1 << 20)} bytes, 320 MiB ({size} bytes) are expected")


def test_the_volume_was_replaced(service: Checked) -> None:
    size = service.volume.stat().st_size
    other = service.volume.with_name("other")
    with other.open("wb") as file:
        file.truncate(size)
    other.rename(service.volume)
    service.fails("mount:", "replaced under it")


def test_the_file_system_is_nearly_full_and_full(service: Checked) -> None:
    free = os.statvfs(service.data)
    room = free.f_bavail * free.f_frsize
    subprocess.run(["fallocate", "-l", str(room - (4 << 20)), str(service.data / "big")], check=True)
    service.fails("space:", "MiB free (", level="WARNING", code=1)
    with (service.data / "rest").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while file.write(bytes(4096)):
            pass
    os.sync()
    service.fails("space:", "is full; remove files")
    code, [line] = service.check("42", "--tolerate-full")
    assert code == 1 and line.startswith("WARNING: ")


def test_the_file_system_is_read_only(service: Checked) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(service.data)], check=True)
    service.fails("space:", "is read-only")


def test_the_file_system_shut_itself_down(service: Checked) -> None:
    subprocess.run(["xfs_io", "-x", "-c", "shutdown", str(service.data)], check=True)
    code, lines = service.check()
    assert code == 2
    assert any("space:" in line and "does not work: Input/output error" in line for line in lines), lines


def test_a_file_system_that_hangs_does_not_hang_the_checker(service: Checked) -> None:
    subprocess.run(["xfs_freeze", "-f", str(service.data)], check=True)
    try:
        # Reading goes on while it is frozen; a check that writes would be stuck in the kernel.
        assert service.check(seconds=25)[0] in (0, 2)
    finally:
        subprocess.run(["xfs_freeze", "-u", str(service.data)], check=True)
    assert service.check() == (0, [])


def test_nothing_is_checked_while_it_is_saved(service: Checked) -> None:
    argv = [sys.executable, "-m", "healthchecker", "--database", str(service.database), "destroy", "42"]
    subprocess.run([*argv, "--begin"], cwd=_SOURCES, check=True)
    os.kill(service.ganesha, signal.SIGKILL)
    assert service.check("all") == (0, [])
    assert service.entry()["state"] == "staging-out"
    code, lines = service.check("42", "--gone")
    assert code == 2
    assert any("is still mounted" in line for line in lines) and any("is still there" in line for line in lines)
    subprocess.run(argv, cwd=_SOURCES, check=True)
    assert json.loads(service.database.read_text()) == []
