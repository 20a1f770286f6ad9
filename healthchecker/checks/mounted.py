"""Is the volume's file system mounted where the database says, and from that volume?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ebb.mounts import MountPoint, find, loop_backs
from healthchecker.check import Check
from healthchecker.checks.volume import is_file, path_of
from healthchecker.service import Flash, Level, Result, Service


def mounted(service: Service) -> Iterator[Result]:
    """Each mountpoint has its own volume on it."""
    for flash in service.flash:
        found = find(Path(flash.mountpoint))
        if found is None:
            yield Result(
                Level.FAILED, f"nothing is mounted on {flash.mountpoint}; restarting ebb-dnd mounts and serves it again"
            )
        elif not is_from(found, flash):
            yield Result(
                Level.FAILED,
                f"{flash.mountpoint} is a mount of {found.source}, not of volume {flash.vg}/{flash.lv}: the volume was "
                "replaced under it, or something else mounted over it; unmount that and restart ebb-dnd",
            )


def is_from(mount: MountPoint, flash: Flash) -> bool:
    """Whether a mount is that volume's."""
    try:
        volume = os.stat(path_of(flash))
    except OSError:
        return False
    if is_file(flash):
        return loop_backs(os.path.basename(mount.source), volume.st_ino, flash.lv)
    return mount.device == f"{os.major(volume.st_rdev)}:{os.minor(volume.st_rdev)}"


CHECK = Check("mount", frozenset({"dasi", "gbf"}), mounted, "the table of mounts or the volume's device cannot be read")
