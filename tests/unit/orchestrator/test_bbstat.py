"""bbstat as its readers see it: the contract's lines verbatim, and nothing that a reason says can break a line."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebb import datanodes
from ebb.model import BufferState, Resources, ServiceType
from orchestrator import bbstat

GB = 1000**3
TB = 1000**4


@pytest.fixture(autouse=True)
def paris(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """CreateTime is local time; the contract's example was made in Paris."""
    monkeypatch.setenv("TZ", "Europe/Paris")
    time.tzset()
    bbstat._line.cache_clear()
    yield
    monkeypatch.undo()
    time.tzset()
    bbstat._line.cache_clear()


ROW = bbstat.Row(
    ServiceType.GBF, 471967, "toto", BufferState.STAGED_IN, 1707230546.9, 0, 799014912, 22836, "boudier1",
    "Global Bunch of Flash ready",
)  # fmt: skip


def test_the_contracts_lines() -> None:
    waiting = bbstat.Row(
        ServiceType.SBB, 473130, "x", BufferState.STAGING_IN, 1707230546, 1500000000000, 300000000000, 1000, "alice",
        "Waiting for SBB Resources",
    )  # fmt: skip
    ended = bbstat.Row(
        ServiceType.GBF, 451731, "y", BufferState.STAGED_OUT, 1707230546, 5, 6, 21898, "couvee1", "Resources released"
    )
    used = Resources(290 * GB, 3, 5693557494 * 1024)
    total = Resources(400 * GB, 128, 5693557494 * 1024 + 4072067506 * 1024)
    assert total.storage == 10 * TB
    assert bbstat.render([ROW, waiting, ended], total, used) == (
        "FA: BB Type=GBF bbid=471967 Name=toto State=staged-in CreateTime=2024-02-06T15:42:26 Memory=0 "
        'StorageSize=799014912 UserId=22836(boudier1) Reason="Global Bunch of Flash ready"\n'
        "FA: BB Type=SBB bbid=473130 Name=x State=staging-in CreateTime=2024-02-06T15:42:26 Memory=1500000000000 "
        'StorageSize=300000000000 UserId=1000(alice) Reason="Waiting for SBB Resources"\n'
        "FA: BB Type=GBF bbid=451731 Name=y State=staged-out CreateTime=2024-02-06T15:42:26 "
        'UserId=21898(couvee1) Reason="Resources released"\n'
        "FA: Total storage : 10TB\n"
        "FA: Used storage : 5693557494KiB\n"
        "FA: Free storage : 4072067506KiB\n"
        "FA: Total memory : 400GB\n"
        "FA: Used memory : 290GB\n"
        "FA: Free memory : 110GB\n"
    )


def test_nothing_at_all() -> None:
    text = bbstat.render([], Resources(), Resources())
    assert text.splitlines()[0] == "FA: Total storage : 0"
    assert len(text.splitlines()) == 6


def test_more_used_than_there_is_shows_no_negative_number() -> None:
    assert "FA: Free memory : 0\n" in bbstat.render([], Resources(1, 1, 1), Resources(5, 5, 5))


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ('mkfs said "no"', "mkfs said 'no'"),
        ("two\nlines\r\n\tand more ", "two lines and more"),
        ("\x1b[31mred\x00\x7f\x85\u00a0", "[31mred"),
        ("run destroy_persistent Name=other State=gone now", "run destroy_persistent Name:other State:gone now"),
        ("Größe 50 %", "Größe 50 %"),
        ("x" * 600, "x" * 497 + "..."),
        ("", ""),
    ],
)
def test_reasons_are_made_harmless(reason: str, shown: str) -> None:
    (line,) = bbstat.render([replace(ROW, reason=reason)], Resources(), Resources()).splitlines()[:-6]
    assert line.endswith(f'UserId=22836(boudier1) Reason="{shown}"')


@given(reason=st.text())
def test_a_client_reads_the_right_state_whatever_the_reason(reason: str) -> None:
    text = bbstat.render([replace(ROW, reason=reason), replace(ROW, name="tata", bbid=1)], Resources(), Resources())
    for name, bbid in (("toto", "471967"), ("tata", "1")):
        (line,) = [line for line in text.split("\n") if line.startswith("FA: BB ") and f" Name={name} " in line]
        assert f" bbid={bbid} " in line
        assert line.count("State=") == 1
        assert re.search(r"State=(\S+)", line)[1] == "staged-in"  # type: ignore[index]
        assert line.count('"') == 2


def test_every_state_but_staged_out_shows_sizes() -> None:
    for state in BufferState:
        line = bbstat.render([replace(ROW, state=state)], Resources(), Resources()).splitlines()[0]
        assert ("Memory=0 StorageSize=799014912 " in line) == (state is not BufferState.STAGED_OUT)
        assert "  " not in line


def test_capacity_is_what_interfaces_shows() -> None:
    site = datanodes.parse(
        "NodeName=dn[1-4] MemorySize=100GB Cores=32 VolumeGroup=ebb StorageSize=2500GB\n"
        "Flavor=small MemorySize=5GB Cores=2"
    )
    interfaces = (Path(__file__).parents[3] / "docs" / "interfaces.md").read_text()
    block = re.search(r"### `/run/ebb/capacity`\n\n((?:    .*\n)+)", interfaces)
    assert block
    offers = {"Types": "GBF", "ObjectStore": "no", "MountPrefixes": "/home,/scratch"}
    assert bbstat.render_capacity(site, offers) == block[1].replace("    ", "")


def test_capacity_counts_where_a_flavor_fits() -> None:
    site = datanodes.parse(
        "NodeName=dn[1-2] MemorySize=4GB Cores=32 VolumeGroup=a,b StorageSize=1TB,2TB\n"
        "NodeName=dn3 MemorySize=8GB Cores=4 VolumeGroup=a StorageSize=3TB\n"
        "Flavor=wide MemorySize=1GB Cores=1 StorageSize=2500GB\nFlavor=huge MemorySize=9GB Cores=1"
    )
    lines = bbstat.render_capacity(site, {}).splitlines()
    assert f"Total Datanodes=3 StorageSize={9 * TB} LargestStorageSize={3 * TB} MemorySize={16 * GB}" in lines
    assert [line.rpartition(" ")[2] for line in lines[3:]] == ["Datanodes=1", "Datanodes=0"]


def test_write_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "bbstat"
    old_umask = os.umask(0o077)
    try:
        bbstat.write_atomic(path, b"old\n")
        before = path.open()
        bbstat.write_atomic(path, b"new\n")
    finally:
        os.umask(old_umask)
    with before:
        assert before.read() == "old\n"  # who reads meanwhile reads on in the old file
    assert path.read_text() == "new\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in tmp_path.iterdir()] == ["bbstat"]


def test_write_follows_no_link_and_leaves_nothing_behind(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".bbstat.new").symlink_to(victim)
    bbstat.write_atomic(tmp_path / "bbstat", b"text", 0o600)
    assert victim.read_text() == "precious"
    assert (tmp_path / "bbstat").stat().st_mode & 0o777 == 0o600
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").touch()
    with pytest.raises(OSError, match="folder"):
        bbstat.write_atomic(tmp_path / "folder", b"text")
    assert not (tmp_path / ".folder.new").exists()
