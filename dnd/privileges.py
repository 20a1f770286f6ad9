"""Give up CAP_SYS_RESOURCE: with it, root's writes into a user's dataset would go past that user's disk quota."""

from __future__ import annotations

import ctypes
import os
import struct

_CAP_SYS_RESOURCE = 24  # capability.h
_VERSION_3 = 0x20080522


def respect_quotas() -> None:
    """Drop the capability from this thread and those it starts; called once, before any other thread exists.

    Programs that this process executes have it again. Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("<Ii", _VERSION_3, 0)
    data = ctypes.create_string_buffer(24)  # effective, permitted, inheritable, twice (capget(2))
    _check(libc.capget(header, data))
    sets = list(struct.unpack("<6I", data.raw))
    sets[0] &= ~(1 << _CAP_SYS_RESOURCE)
    _check(libc.capset(header, struct.pack("<6I", *sets)))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"capabilities cannot be changed: {os.strerror(number)}")
