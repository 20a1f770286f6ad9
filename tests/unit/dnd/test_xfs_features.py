"""Every release of mkfs.xfs is asked for the same features, each only if that release knows its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from dnd.tools import xfs
from ebb.run import Completed, run

SIZE = 300 << 20


def asked_of(release: str) -> list[str]:
    """What mkfs.xfs of a release is called with."""
    calls: list[list[str]] = []

    def fake(argv: Sequence[str], *, timeout: float = 60, input: str | None = None, check: bool = True) -> Completed:
        calls.append(list(argv))
        return Completed(tuple(argv), 0, f"mkfs.xfs version {release}\n", "")

    xfs.make(fake, Path("/dev/x"), SIZE, "test")
    return calls[-1]


@pytest.mark.parametrize(
    ("release", "turned_off"),
    [
        ("6.1.0", []),
        ("6.9.0", []),
        ("6.10.1", ["exchange=0", "parent=0"]),
        ("7.2.0", ["exchange=0", "parent=0", "metadir=0"]),
    ],
)
def test_only_names_that_the_release_knows(release: str, turned_off: list[str]) -> None:
    asked = asked_of(release)
    assert [word for word in asked if word in ("exchange=0", "parent=0", "metadir=0")] == turned_off
    assert "sparse=1,nrext64=0" in asked and asked[-1] == "/dev/x"


def test_the_one_here_takes_them(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(SIZE)
    xfs.make(run, image, SIZE, "test")
    shown = run(["xfs_db", "-r", "-c", "version", "-f", str(image)]).stdout
    assert "FINOBT,SPARSE_INODES,REFLINK,INOBTCNT,BIGTIME" in shown
    assert "RMAPBT" not in shown and "NREXT64" not in shown
