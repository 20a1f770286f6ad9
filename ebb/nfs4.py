"""Ask an NFS server whether it serves: a NULL call, and a session of NFS 4.1 that looks an export up.

A listening socket is not enough: Ganesha binds its port before it has read its exports, and a stopped one still has
its connections taken by the kernel. The NULL procedure (RFC 7530, section 15.1; record marking and call header: RFC
5531) needs neither a session nor permissions; a lookup (RFC 8881) needs both.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time

NFS4_OK = 0
NFS4ERR_NOENT = 2
NFS4ERR_ACCESS = 13
NFS4ERR_WRONGSEC = 10016

_PROGRAM = 100003
_VERSION = 4
_LAST_FRAGMENT = 0x80000000
_CALL = 0
_REPLY = 1
_ACCEPTED = 0
_SUCCESS = 0
_AUTH_NONE = bytes(8)
_LARGEST_REPLY = 4 << 20
_IO = 1 << 20

OPERATION = {
    "CLOSE": 4,
    "COMMIT": 5,
    "CREATE": 6,
    "GETFH": 10,
    "LOOKUP": 15,
    "OPEN": 18,
    "PUTFH": 22,
    "PUTROOTFH": 24,
    "READ": 25,
    "WRITE": 38,
    "EXCHANGE_ID": 42,
    "CREATE_SESSION": 43,
    "DESTROY_SESSION": 44,
    "SEQUENCE": 53,
    "DESTROY_CLIENTID": 57,
    "RECLAIM_COMPLETE": 58,
}
"""Operations of a compound by their names (RFC 8881, section 16.2.3)."""


class NfsError(Exception):
    """The server answered a compound with an error status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"NFS status {status}")
        self.status = status


def null_call(address: str, port: int, *, timeout: float, source: str | None = None) -> None:
    """Send one NULL call and wait for its answer.

    The start of a service and the health checks call it. timeout: seconds for connecting, and for the whole answer:
    whoever has the port may send it byte by byte. source: the local address to send from (tests).
    Raises OSError when nobody answers in time, or something that is no NFS server does.
    """
    xid = 0x45626201
    message = struct.pack(">6I", xid, _CALL, 2, _PROGRAM, _VERSION, 0) + _AUTH_NONE * 2
    where = (source, 0) if source else None
    with socket.create_connection((address, port), timeout=timeout, source_address=where) as connection:
        connection.sendall(struct.pack(">I", _LAST_FRAGMENT | len(message)) + message)
        reply = read_record(connection, time.monotonic() + timeout)
    fields = struct.unpack_from(">6I", reply) if len(reply) >= 24 else ()
    # xid, REPLY, accepted, verifier flavor, verifier length, accept state
    if len(fields) < 6 or fields[:3] != (xid, _REPLY, _ACCEPTED) or fields[5] != _SUCCESS:
        raise OSError(f"{address} port {port} answered an NFS NULL call with {reply[:24].hex()}")


def answers(address: str, port: int, *, timeout: float) -> bool:
    """Whether an NFS server answers there within `timeout` seconds."""
    try:
        null_call(address, port, timeout=timeout)
    except OSError:
        return False
    return True


def connect_privileged(address: str, port: int, *, timeout: float, source: str | None = None) -> socket.socket:
    """Connect to a server from a port that only root can have (below 1024), so that it may know that root is asking.

    From `source`, or the server's own address for one on this node. Raises OSError; PermissionError for all but root.
    """
    for local in range(1023, 511, -1):
        connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            # These ports are few: former connections that linger, and some to other servers, may have the same.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            connection.bind((source or address, local))
            connection.connect((address, port))
        except OSError as error:
            connection.close()
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                raise
        else:
            return connection
    raise OSError(f"no local port below 1024 is free to ask {address} port {port} from")


class Reader:
    """Takes the fields of an XDR reply one after the other (RFC 4506). Raises OSError at its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def u32(self) -> int:
        """An unsigned number of 32 bits."""
        (value,) = struct.unpack(">I", self.take(4))
        return int(value)

    def take(self, length: int) -> bytes:
        """That many bytes as they stand."""
        data = self._data[self._at : self._at + length]
        if len(data) < length:
            raise OSError("an NFS reply ends too early")
        self._at += length
        return data

    def opaque(self) -> bytes:
        """A length, as many bytes, and what fills them up to four."""
        length = self.u32()
        data = self.take(length)
        self.take(-length % 4)
        return data


def opaque(data: bytes) -> bytes:
    """Bytes as XDR's variable-length opaque."""
    return struct.pack(">I", len(data)) + data + bytes(-len(data) % 4)


def operation(name: str, body: bytes = b"") -> bytes:
    """One operation of a compound."""
    return struct.pack(">I", OPERATION[name]) + body


class Session:
    """One session of NFS 4.1 over `connection`, as `uid`; closes with `with`, and takes its traces off the server.

    Made by health checks and tests. The connection is the session's from now on; its time limit holds for each piece
    of an answer.
    Raises OSError and NfsError.
    """

    def __init__(self, connection: socket.socket, *, uid: int = 0, gid: int = 0) -> None:
        self.uid, self.gid = uid, gid
        self.socket = connection
        self._xid = 1
        try:
            self._open()
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        # The server would keep a record of every client that ever asked.
        with contextlib.suppress(OSError, NfsError):
            self._compound(1, operation("DESTROY_SESSION", self._session))
            self._compound(1, operation("DESTROY_CLIENTID", struct.pack(">Q", self.client_id)))
        self.socket.close()

    def lookup(self, *names: str) -> bytes:
        """The file handle of a path below the server's root. Raises NfsError, NFS4ERR_NOENT for what is hidden too."""
        steps = b"".join(operation("LOOKUP", opaque(name.encode())) for name in names)
        answer = self.sequence(2 + len(names), operation("PUTROOTFH") + steps + operation("GETFH"))
        answer.take(8 * (1 + len(names)))
        answer.take(8)
        return answer.opaque()

    def sequence(self, operations: int, body: bytes) -> Reader:
        """A compound of so many operations within the session; the answer, from behind that of SEQUENCE."""
        self._slot_sequence += 1
        sequence = operation("SEQUENCE", self._session + struct.pack(">IIII", self._slot_sequence, 0, 0, 0))
        answer = self._compound(1 + operations, sequence + body)
        answer.take(8 + 16 + 20)
        return answer

    def _open(self) -> None:
        owner = os.urandom(8) + opaque(b"ebb " + os.urandom(6).hex().encode())
        answer = self._compound(1, operation("EXCHANGE_ID", owner + struct.pack(">III", 0, 0, 0)))
        answer.take(8)
        (self.client_id,) = struct.unpack(">Q", answer.take(8))
        sequence = answer.u32()
        channel = struct.pack(">IIIIIII", 0, _IO, _IO, 4096, 16, 8, 0)
        callback = struct.pack(">I", 0x40000000) + struct.pack(">II", 1, 0)
        body = struct.pack(">QII", self.client_id, sequence, 0) + channel + channel + callback
        answer = self._compound(1, operation("CREATE_SESSION", body))
        answer.take(8)
        self._session = answer.take(16)
        self._slot_sequence = 0
        self.sequence(1, operation("RECLAIM_COMPLETE", struct.pack(">I", 0)))

    def _compound(self, operations: int, body: bytes) -> Reader:
        self._xid += 1
        credential = struct.pack(">I", 0) + opaque(b"ebb") + struct.pack(">III", self.uid, self.gid, 0)
        message = (
            struct.pack(">6I", self._xid, _CALL, 2, _PROGRAM, _VERSION, 1)
            + struct.pack(">I", 1)  # AUTH_SYS
            + opaque(credential)
            + _AUTH_NONE
            + struct.pack(">III", 0, 1, operations)  # no tag, minor version 1
            + body
        )
        self.socket.sendall(struct.pack(">I", _LAST_FRAGMENT | len(message)) + message)
        reply = Reader(read_record(self.socket))
        header = [reply.u32() for _ in range(6)]
        if header[2] != _ACCEPTED or header[5] != _SUCCESS:
            raise ConnectionError(f"RPC refused: {header}")
        status = reply.u32()
        if status:
            raise NfsError(status)
        reply.opaque()
        reply.u32()
        return reply


def read_record(connection: socket.socket, end: float | None = None) -> bytes:
    """One reply in one fragment. end: by when it must be whole (monotonic seconds).

    Raises OSError when the server closes or sends something else, or when the time is over.
    """
    (mark,) = struct.unpack(">I", _read_exactly(connection, 4, end))
    length = mark & ~_LAST_FRAGMENT
    if length > _LARGEST_REPLY:
        raise OSError(f"an NFS reply of {length} bytes")
    return _read_exactly(connection, length, end)


def _read_exactly(connection: socket.socket, length: int, end: float | None) -> bytes:
    data = b""
    while len(data) < length:
        if end is not None:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            connection.settimeout(left)
        piece = connection.recv(length - len(data))
        if not piece:
            raise OSError("the NFS server closed the connection instead of answering")
        data += piece
    return data
