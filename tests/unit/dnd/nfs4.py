"""A raw NFS 4.1 client, just large enough to ask a server what a kernel's mount would (RFC 8881 and RFC 5531).

The tests' kernel has no NFS client. This one chooses its source address and its uid, so that it can knock as any node.
"""

import socket
import struct
import time
from collections.abc import Callable

from ebb.nfs4 import NFS4ERR_ACCESS, NFS4ERR_NOENT, NfsError, Session, connect_privileged, opaque, operation

__all__ = ["NFS4ERR_ACCESS", "NFS4ERR_NOENT", "Nfs4Client", "NfsError", "wait_for"]

_ANONYMOUS_STATE = bytes(16)


class Nfs4Client(Session):
    """One session as `uid` from `source`; closes with `with`."""

    def __init__(
        self,
        address: str,
        port: int,
        *,
        source: str,
        uid: int = 0,
        gid: int = 0,
        timeout: float = 10,
        privileged: bool = True,
    ) -> None:
        if privileged:  # a kernel's mount comes from a port below 1024, a user's program cannot
            connection = connect_privileged(address, port, timeout=timeout, source=source)
        else:
            connection = socket.create_connection((address, port), timeout=timeout, source_address=(source, 0))
        super().__init__(connection, uid=uid, gid=gid)

    def __enter__(self) -> "Nfs4Client":
        return self

    def write(self, directory: bytes, name: str, data: bytes) -> bytes:
        """Make a file with `data` in it, synced; its handle."""
        create = struct.pack(">II", 1, 0)  # OPEN4_CREATE, UNCHECKED4
        attributes = struct.pack(">III", 2, 0, 1 << (33 - 32)) + opaque(struct.pack(">I", 0o644))
        owner = struct.pack(">Q", self.client_id) + opaque(b"test")
        claim = struct.pack(">I", 0) + opaque(name.encode())
        body = struct.pack(">III", 0, 2, 0) + owner + create + attributes + claim
        steps = operation("PUTFH", opaque(directory)) + operation("OPEN", body) + operation("GETFH")
        answer = self.sequence(3, steps)
        answer.take(8)  # PUTFH
        answer.take(8)
        state = answer.take(16)
        answer.take(20)  # change info
        answer.take(4)  # rflags
        for _ in range(answer.u32()):
            answer.take(4)
        kind = answer.u32()
        if kind == 3 and answer.u32() in (1, 2):  # OPEN_DELEGATE_NONE_EXT: why, and sometimes a flag
            answer.take(4)
        answer.take(8)
        handle = answer.opaque()
        body = state + struct.pack(">QI", 0, 2) + opaque(data)
        self.sequence(2, operation("PUTFH", opaque(handle)) + operation("WRITE", body))
        self.sequence(2, operation("PUTFH", opaque(handle)) + operation("CLOSE", struct.pack(">I", 0) + state))
        return handle

    def read(self, handle: bytes, length: int = 4096) -> bytes:
        """The first `length` bytes of a file, by its handle alone: what a client with an old handle can do."""
        body = _ANONYMOUS_STATE + struct.pack(">QI", 0, length)
        answer = self.sequence(2, operation("PUTFH", opaque(handle)) + operation("READ", body))
        answer.take(8)
        answer.take(8)
        answer.u32()
        return answer.opaque()


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until `condition()` holds; AssertionError with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
