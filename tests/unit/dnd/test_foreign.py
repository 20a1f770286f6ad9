"""A dataset of another site: refused, or where ebb.conf allows it checked and mounted so that nothing of it is run."""

from __future__ import annotations

from pathlib import Path

import pytest
from blake3 import blake3

from ebb.dataset import HEADER_SIZE
from ebb.model import Phase, Status
from unit.dnd.datanode import Datanode

pytestmark = pytest.mark.datanode


def of_another_site(datanode: Datanode) -> Path:
    path = datanode.home / "ds"
    status = datanode.create("1", data_dst=str(path))
    (data_of(status) / "kept").write_bytes(b"precious")
    assert datanode.destroy("1").phase is Phase.GONE
    (datanode.folder / "site.key").write_bytes(b"o" * 32)
    return path


def data_of(status: Status) -> Path:
    assert status.phase is Phase.READY, status
    return Path(status.mounts[0].data)


def options_of(path: Path) -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return set(next(line.split()[5] for line in lines if line.split()[4] == str(path)).split(","))


def allow(datanode: Datanode) -> None:
    datanode.kill()
    datanode.config.write_text(datanode.config.read_text() + "ForeignImages=yes\n")
    datanode.start()


def test_it_is_refused_unless_the_site_allows_it(datanode: Datanode) -> None:
    path = of_another_site(datanode)
    status = datanode.create("2", data_src=str(path))
    assert status.phase is Phase.FAILED and "seal does not fit" in str(status.error)
    datanode.destroy("2")
    datanode.assert_nothing_left()


def test_it_is_mounted_without_programs_also_after_a_restart(datanode: Datanode) -> None:
    path = of_another_site(datanode)
    allow(datanode)
    data = data_of(datanode.create("2", data_src=str(path)))
    assert (data / "kept").read_bytes() == b"precious"
    assert {"nosuid", "nodev", "noexec"} <= options_of(data)
    assert data_of(datanode.create("3")) != data
    assert "noexec" not in options_of(data_of(datanode.settled("3")))
    assert datanode.destroy("2").phase is Phase.GONE and datanode.destroy("3").phase is Phase.GONE
    datanode.assert_nothing_left()


def test_a_damaged_file_system_is_not_mounted(datanode: Datanode) -> None:
    """Its digests are right: another site, or its owner, made them over bytes that are no sound file system."""
    path = of_another_site(datanode)
    allow(datanode)
    header = bytearray(path.read_bytes()[: HEADER_SIZE + (1 << 20)])
    image = memoryview(header)[HEADER_SIZE:]
    image[4096 * 2 : 4096 * 8] = b"\xff" * (4096 * 6)
    header[65536 : 65536 + 32] = blake3(image).digest()
    with path.open("r+b") as file:
        file.write(header)
    status = datanode.create("2", data_src=str(path))
    assert status.phase is Phase.FAILED, status
    assert "has no seal of this site, and the image is no sound XFS" in str(status.error)
    assert datanode.destroy("2").phase is Phase.GONE
    datanode.assert_nothing_left()
