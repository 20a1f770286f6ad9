"""Whether a volume is still mounted somewhere: in another mount namespace too, where this process sees no mount.

A job on the datanode itself has the file system bind-mounted in its own namespace. After dnd's unmount it lives on
there until the job's last process is gone, and until then the volume may not be read as an image.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from ebb.errors import EnvironmentFault
from ebb.mounts import loop_backs


def block_device(device: Path) -> bool:
    """For a block device: the kernel refuses O_EXCL while a file system on it is mounted anywhere (open(2)).

    Raises EnvironmentFault if the device cannot be opened for another reason.
    """
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        raise EnvironmentFault(f"{device} cannot be opened: {error.strerror}") from error
    return False


def image_file(path: Path) -> bool:
    """For a file mounted through a loop device that goes with the mount: whether such a device is still there.

    Raises EnvironmentFault if the file is not there.
    """
    try:
        inode = path.stat().st_ino
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be looked at: {error.strerror}") from error
    return any(loop_backs(loop.name, inode, path.name) for loop in Path("/sys/block").glob("loop*"))
