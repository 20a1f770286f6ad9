"""Mounts as the kernel has them (/proc/self/mountinfo, see proc(5)), and what backs their loop devices."""

from __future__ import annotations

import fcntl
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

# <linux/loop.h>: LOOP_GET_STATUS64 fills struct loop_info64 (232 bytes), which begins with lo_device and lo_inode.
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_INFO64 = 232

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountPoint:
    """One line of the table. device: `major:minor`; options: of the file system, not of this mount of it."""

    path: Path
    filesystem: str
    source: str
    device: str
    number: int
    options: str

    @property
    def served_by(self) -> int | None:
        """The uid of whoever answers for a FUSE file system; None for all others. See mount.fuse(8), user_id."""
        if self.filesystem.partition(".")[0] not in ("fuse", "fuseblk"):
            return None
        found = [each for each in self.options.split(",") if each.startswith("user_id=")]
        return int(found[0].removeprefix("user_id=")) if found else 0


def table() -> list[MountPoint]:
    """All mounts of this thread's namespace."""
    found = []
    # Users choose where they mount what they serve: a path may hold any bytes, and of those that could end a line or a
    # word the kernel writes only blanks, tabs and newlines as \040 and the like.
    for line in Path("/proc/thread-self/mountinfo").read_bytes().split(b"\n")[:-1]:
        fields = line.split(b" ")
        dash = fields.index(b"-", 6)
        path = _ESCAPE.sub(lambda octal: bytes([int(octal[1], 8)]), fields[4])
        kind, source, device, options = map(os.fsdecode, (*fields[dash + 1 : dash + 3], fields[2], fields[dash + 3]))
        found.append(MountPoint(Path(os.fsdecode(path)), kind, source, device, int(fields[0]), options))
    return found


def of_descriptor(descriptor: int) -> MountPoint | None:
    """The mount that a file was opened through; None if this namespace does not have it. The file is not asked."""
    for line in Path(f"/proc/thread-self/fdinfo/{descriptor}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "mnt_id":
            return next((mount for mount in table() if mount.number == int(value)), None)
    return None


def find(path: Path) -> MountPoint | None:
    """What is mounted on `path` (the last, if several)."""
    return next((mount for mount in reversed(table()) if mount.path == path), None)


def loop_backs(loop: str, inode: int, name: str) -> bool:
    """Whether loop device `loop` (`loop3`) is attached to the file with that inode and base name.

    Both, since the file's whole path may look different from another mount namespace.
    """
    try:
        backing = os.fsdecode(Path(f"/sys/block/{loop}/loop/backing_file").read_bytes()).rstrip("\n")
        if os.path.basename(backing) != name:
            return False
        descriptor = os.open(f"/dev/{loop}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False  # not attached, or gone meanwhile
    try:
        info = fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, bytes(_LOOP_INFO64))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    _, found = struct.unpack_from("=QQ", info)
    return bool(found == inode)
