"""Bring a volume's file system to rest before it is saved, and learn which of its bytes are in use.

Mounted, a journal that a crash left is replayed. Made read-only, the file system has written all it had to and writes
nothing more, so the kernel's map of free space is that of the bytes on the disk: what it calls free is neither read nor
saved, and no old bytes reach the user.
"""

from __future__ import annotations

import os
from pathlib import Path

from dnd.tools import fsmap, kernel, mounts, xfs
from dnd.tools.namespace import with_own_mounts
from ebb.errors import EnvironmentFault
from ebb.extents import Extents
from ebb.run import Runner


def used_bytes(run: Runner, device: Path, mountpoint: Path, options: tuple[str, ...]) -> Extents:
    """Where an unmounted volume holds what belongs to its file system. Called at the beginning of a save.

    mountpoint: used in a mount namespace of its own. options: what mounting this kind of volume needs.
    Raises EnvironmentFault, UserError if there is no XFS.
    """
    free = with_own_mounts(lambda: _free_bytes(run, device, mountpoint, options))
    # Only now: what is read of a device that is mounted need not be what is on it.
    with device.open("rb", buffering=0) as file:
        size = xfs.superblock(os.pread(file.fileno(), 512, 0)).size
    return fsmap.used(free, size)


def _free_bytes(run: Runner, device: Path, mountpoint: Path, options: tuple[str, ...]) -> Extents:
    mounts.mount_settled(run, device, mountpoint, options)
    try:
        try:
            kernel.remount_read_only(mountpoint)
            return fsmap.free(mountpoint)
        finally:
            kernel.unmount(mountpoint)
    except OSError as error:
        raise EnvironmentFault(f"the file system of {device} cannot be brought to rest: {error.strerror}") from error
