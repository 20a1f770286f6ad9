"""Which bytes of an XFS hold something, from the kernel's own map. Reference: ioctl_getfsmap(2), linux/fsmap.h."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from ebb.errors import EnvironmentFault
from ebb.extents import Extents

_GETFSMAP = 0xC0C0583B
_RECORD = struct.Struct("=IIQQQQ24x")  # device, flags, physical, owner, offset, length; bytes
_HEAD = struct.Struct("=IIII48x")  # flags in, flags out, records that fit, records found
_KEYS_AT = _HEAD.size
_RECORDS_AT = _KEYS_AT + 2 * _RECORD.size
_SPECIAL_OWNER, _LAST = 0x10, 0x20
_FREE = 1
_FROM_THE_START = _RECORD.pack(0, 0, 0, 0, 0, 0)
_TO_THE_END = _RECORD.pack(0xFFFFFFFF, 0xFFFFFFFF, *[0xFFFFFFFFFFFFFFFF] * 3, 0)
_AT_A_TIME = 4096


def free(mountpoint: Path) -> Extents:
    """What the file system mounted there calls free. Holds for as long as nothing is written.

    Raises EnvironmentFault.
    """
    directory = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return Extents.of(_free(directory))
    except OSError as error:
        raise EnvironmentFault(f"{mountpoint}: the map of its file system cannot be read: {error.strerror}") from error
    finally:
        os.close(directory)


def _free(directory: int) -> Iterator[tuple[int, int]]:
    """(begin, stop) of what is free, ascending."""
    request = bytearray(_RECORDS_AT + _AT_A_TIME * _RECORD.size)
    low = _FROM_THE_START
    while True:
        _HEAD.pack_into(request, 0, 0, 0, _AT_A_TIME, 0)
        request[_KEYS_AT:_RECORDS_AT] = low + _TO_THE_END
        fcntl.ioctl(directory, _GETFSMAP, request, True)
        found = _HEAD.unpack_from(request)[3]
        for number in range(found):
            at = _RECORDS_AT + number * _RECORD.size
            _, flags, physical, owner, _, length = _RECORD.unpack_from(request, at)
            if flags & _SPECIAL_OWNER and owner == _FREE:
                yield physical, physical + length
            low = bytes(request[at : at + _RECORD.size])  # the next question goes on behind the last record
            if flags & _LAST:
                return
        if not found:
            return


def used(free_bytes: Extents, size: int) -> Extents:
    """All of the first `size` bytes that are not free: what the kernel does not name counts as used."""
    return Extents.of(_gaps(free_bytes, size))


def _gaps(stretches: Extents, size: int) -> Iterator[tuple[int, int]]:
    """What lies between ascending stretches, up to `size`."""
    position = 0
    for begin, stop in stretches:
        yield position, min(begin, size)
        position = max(position, stop)
    yield position, size
