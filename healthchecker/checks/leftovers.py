"""Has a service that ended left anything behind?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ebb.mounts import find
from healthchecker.check import Check
from healthchecker.checks.ganesha import command_line
from healthchecker.checks.volume import size_of
from healthchecker.service import Level, Result, Service


def leftovers(service: Service) -> Iterator[Result]:
    """Servers, mounts, volumes."""
    folders = {str(Path(flash.mountpoint).parent) for flash in service.flash}
    for pid in service.daemons:
        words = command_line(pid)
        # The process id may be somebody else's by now.
        if any(str(Path(word).parent) in folders for word in words):
            yield Result(Level.FAILED, f"its server (process {pid}) still runs; end it")
    for flash in service.flash:
        if find(Path(flash.mountpoint)) is not None:
            yield Result(Level.FAILED, f"{flash.mountpoint} is still mounted; unmount it")
        if size_of(flash) is not None:
            yield Result(Level.FAILED, f"volume {flash.vg}/{flash.lv} is still there; see that it holds nobody's data")


CHECK = Check(
    "leftovers",
    frozenset({"dasi", "gbf"}),
    leftovers,
    "LVM does not answer: a device hangs, or another command holds its lock",
    seconds=15,
    gone=True,
)
