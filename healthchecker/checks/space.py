"""Does the file system answer, can it be written to, and is there room?"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from ebb.mounts import find
from healthchecker.check import Check
from healthchecker.service import Level, Result, Service

WARN_BELOW_PERCENT = 5
_BLOCK = 4096
FULL_BELOW_MIB = 1  # XFS keeps some last blocks to itself


def space(service: Service) -> Iterator[Result]:
    """Each file system; what is not mounted is another check's business."""
    for flash in service.flash:
        # Not os.path.ismount: that takes a file system that does not work for none.
        mounted = find(Path(flash.mountpoint))
        if mounted is not None:
            yield from _look(flash.mountpoint)
            if mounted.source.startswith("/"):  # else something else is mounted over it: another check's business too
                yield from _read(mounted.source)


def _read(device: str) -> Iterator[Result]:
    """What is looked at in a file system is mostly in memory: whether its device answers is another question."""
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        try:
            with mmap.mmap(-1, _BLOCK) as block:  # whole pages, as O_DIRECT wants them (open(2))
                os.preadv(descriptor, [block], 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        yield Result(
            Level.FAILED, f"the device {device} cannot be read: {error.strerror}; see the kernel's log (`dmesg`)"
        )


def _look(path: str) -> Iterator[Result]:
    try:
        # After a device's error XFS shuts itself down; only what reads its metadata sees it (EIO), statvfs does not.
        with os.scandir(path) as entries:
            first = next(entries, None)
        if first is not None:
            os.stat(first.path, follow_symlinks=False)
        found = os.statvfs(path)
    except OSError as error:
        yield Result(
            Level.FAILED,
            f"the file system on {path} does not work: {error.strerror}; see the kernel's log (`dmesg`) for its device",
        )
        return
    if found.f_flag & os.ST_RDONLY:
        yield Result(
            Level.FAILED,
            f"the file system on {path} is read-only; `mount -o remount,rw {path}` once you know why",
        )
    free = 100 * found.f_bavail / max(found.f_blocks, 1)
    mib = found.f_bavail * found.f_frsize >> 20
    if mib < FULL_BELOW_MIB:
        yield Result(Level.FAILED, f"the file system on {path} is full; remove files, or save it and end it", full=True)
    elif found.f_favail == 0:
        yield Result(Level.FAILED, f"the file system on {path} can take no more files; remove some", full=True)
    elif free < WARN_BELOW_PERCENT:
        yield Result(Level.WARNING, f"the file system on {path} has only {mib} MiB free ({free:.1f}%)")


CHECK = Check(
    "space",
    frozenset({"dasi", "gbf"}),
    space,
    "the file system or its device hangs; see the kernel's log (`dmesg`) for its device",
)
