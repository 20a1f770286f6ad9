"""A device that fails behind what the kernel has in memory."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ebb.mounts import MountPoint
from healthchecker.checks import space
from healthchecker.runner import run
from healthchecker.service import Flash, Level, Service


@pytest.mark.parametrize(
    ("device", "says"),
    [("none", "cannot be read: No such file"), ("hangs", "no answer within 1 s: the file system or")],
)
def test_a_device_that_does_not_answer_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, says: str
) -> None:
    """LVM's lateness alone says nothing, and all else that is looked at may be in memory."""
    os.mkfifo(tmp_path / "hangs")
    mounted = MountPoint(tmp_path, "xfs", str(tmp_path / device), "7:0", 1, "")
    monkeypatch.setattr(space, "find", lambda _: mounted)
    service = Service("42", 1, 1, "gbf", "toto", (Flash("lv", "vg", str(tmp_path), 300),), ())
    [results] = run([(service, replace(space.CHECK, seconds=1.0))])
    assert any(each.level is Level.FAILED and says in each.text for each in results), results
