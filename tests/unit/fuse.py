"""A FUSE file system as a program would serve one: a directory that holds one regular file of any name asked for.

Or it hangs: requests wait for an answer that never comes. Wire format: linux/fuse.h (protocol 7.31).
"""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_IN = struct.Struct("=IIQQIIII")  # length, operation, unique, node, uid, gid, pid, padding
_OUT = struct.Struct("=IiQ")
_ATTRIBUTES = struct.Struct("=6Q10I")
_LOOKUP, _GETATTR, _OPEN, _READ, _INIT = 1, 3, 14, 15, 26
_ROOT, _FILE = 1, 2
_DIRECTORY_MODE, _FILE_MODE = 0o40777, 0o100666


@contextmanager
def served(mountpoint: Path, uid: int, *, hangs: bool, size: int = 4096) -> Iterator[None]:
    """Mounted while the block runs, served in the name of `uid`; what hangs in it then ends with an error.

    hangs: nothing is answered; otherwise all but reading, from a file of `size` bytes.
    """
    descriptor = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={descriptor},rootmode=40000,user_id={uid},group_id={uid},allow_other"
    subprocess.run(
        ["mount", "-i", "-t", "fuse.mine", "-o", options, "mine", str(mountpoint)], check=True, pass_fds=(descriptor,)
    )
    server = None
    if not hangs:
        server = threading.Thread(target=_serve, args=(descriptor, size), name="fuse")
        server.start()
    try:
        yield
    finally:
        # Force: requests that wait are ended, and the server's read with them.
        subprocess.run(["umount", "--force", "--lazy", str(mountpoint)], check=True)
        if server is not None:
            server.join(10)
        os.close(descriptor)


def _serve(descriptor: int, size: int) -> None:
    while True:
        try:
            request = os.read(descriptor, 1 << 20)
        except OSError as error:
            if error.errno == errno.ENODEV:  # unmounted
                return
            raise
        _, operation, unique, node, *_ = _IN.unpack_from(request)
        if operation == _READ:
            continue
        answer = _answer(operation, node, size)
        if answer is None:
            os.write(descriptor, _OUT.pack(_OUT.size, -errno.ENOSYS, unique))
        else:
            os.write(descriptor, _OUT.pack(_OUT.size + len(answer), 0, unique) + answer)


def _answer(operation: int, node: int, size: int) -> bytes | None:
    if operation == _INIT:
        return struct.pack("=IIIIHHIIHHI28x", 7, 31, 0, 0, 1, 1, 1 << 16, 1, 1, 0, 0)
    if operation == _LOOKUP:
        return struct.pack("=QQQQII", _FILE, 0, 1, 1, 0, 0) + _attributes(_FILE, size)
    if operation == _GETATTR:
        return struct.pack("=QII", 1, 0, 0) + _attributes(node, size)
    if operation == _OPEN:
        return struct.pack("=QII", 1, 0, 0)
    return None


def _attributes(node: int, size: int) -> bytes:
    mode = _DIRECTORY_MODE if node == _ROOT else _FILE_MODE
    return _ATTRIBUTES.pack(node, size, 8, 0, 0, 0, 0, 0, 0, mode, 1, 65534, 65534, 0, 4096, 0)
