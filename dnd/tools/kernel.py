"""Calls of the kernel that Python does not have: clone a stretch of a file, make a stretch zeros, write it out early,
compare memory, change mounts without a process for each change.

References: ioctl_ficlonerange(2), fallocate(2), sync_file_range(2), memcmp(3), mount(2), umount(2).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
import time
from pathlib import Path

BUSY_SECONDS = 10.0
"""So long a mount may be in use that nobody uses any more."""
_FICLONERANGE = 0x4020940D
_CLONE = struct.Struct("=qQQQ")
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10
_SYNC_WRITE = 0x02
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOATIME = 0x01, 0x02, 0x04, 0x400
_MNT_DETACH = 2
_MS_REMOUNT, _MS_REC, _MS_SLAVE = 0x20, 0x4000, 1 << 19
# An NFS 4.2 client clones and punches with the caller's rights, not with those that the file was opened with: root's
# count for nothing on most servers.
_NOT_MINE = (errno.EACCES, errno.EPERM)
_NO_CLONES = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, *_NOT_MINE)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


def clone(source: int, source_offset: int, target: int, target_offset: int, length: int) -> bool:
    """Let `target` share the source's blocks there: no data moves. False if these files cannot share.

    Both must be open on one file system that can (XFS, Btrfs), offsets and length whole blocks of it. Raises OSError
    when the file system fails, for example for want of room.
    """
    try:
        fcntl.ioctl(target, _FICLONERANGE, _CLONE.pack(source, source_offset, length, target_offset))
    except OSError as error:
        if error.errno in _NO_CLONES:
            return False
        raise
    return True


def make_zeros(descriptor: int, begin: int, stop: int) -> None:
    """Make these bytes read as zeros, a hole in a file; on a device by its own means. Raises OSError."""
    device = stat.S_ISBLK(os.fstat(descriptor).st_mode)
    # On a device a hole is refused where it cannot be punched without writing; zeroing falls back to that.
    mode = _KEEP_SIZE | (_ZERO_RANGE if device else _PUNCH_HOLE)
    if _libc.fallocate(descriptor, mode, begin, stop - begin) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EOPNOTSUPP, *_NOT_MINE):
        raise OSError(code, os.strerror(code))
    for at in range(begin, stop, 1 << 20):
        blank = bytes(min(1 << 20, stop - at))
        # What is a hole stays one, where nothing else can tell.
        if code not in _NOT_MINE or os.pread(descriptor, len(blank), at) != blank:
            os.pwrite(descriptor, blank, at)


def start_writing(descriptor: int, begin: int, length: int) -> None:
    """Let the kernel begin to write these bytes to the disk, and do not wait for it: less is left to a later fsync,
    which alone makes them safe and tells of errors. No error where that cannot be done.
    """
    _libc.sync_file_range(descriptor, begin, length, _SYNC_WRITE)


def remount_read_only(mountpoint: Path) -> None:
    """Make the file system mounted there read-only: when this returns it is at rest on its disk. Raises OSError."""
    _mount(mountpoint, _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOATIME)


def receive_only(mountpoint: Path) -> None:
    """Let no mount below it be seen by other namespaces; what they drop is dropped here too. Raises OSError."""
    _mount(mountpoint, _MS_REC | _MS_SLAVE)


def unmount(mountpoint: Path) -> None:
    """Drop one mount. Raises OSError.

    A command that another thread starts has copies of all descriptors until it is that command, so what was closed here
    may be open there for a moment (fork(2), FD_CLOEXEC in fcntl(2)); a health check may be looking at its free space.
    For that long it is tried again.
    """
    end = time.monotonic() + BUSY_SECONDS
    while _libc.umount2(os.fsencode(mountpoint), 0) != 0:
        if ctypes.get_errno() != errno.EBUSY or time.monotonic() > end:
            raise _failed()
        time.sleep(0.01)


def detach(mountpoint: Path) -> None:
    """Take one mount, and what is mounted in it, out of sight, whoever uses it: it ends with its last user.

    Raises OSError.
    """
    if _libc.umount2(os.fsencode(mountpoint), _MNT_DETACH) != 0:
        raise _failed()


def _mount(mountpoint: Path, flags: int) -> None:
    if _libc.mount(b"none", os.fsencode(mountpoint), None, flags, None) != 0:
        raise _failed()


def _failed() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))


class Zeros:
    """Tells whether stretches of a block are zeros, without copying them and without holding up other threads."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._anchor = (ctypes.c_char * len(memory)).from_buffer(memory)
        self._address = ctypes.addressof(self._anchor)

    def at(self, begin: int, length: int) -> bool:
        """Whether `length` bytes (at least 1) from `begin` are all zeros."""
        if self._anchor[begin] != b"\0":
            return False
        # All bytes are zero if the first is, and each equals the one before it.
        start = self._address + begin
        return length == 1 or _libc.memcmp(start, start + 1, length - 1) == 0
