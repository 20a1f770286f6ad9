"""A client and servers on one host: bytes go through memory that both have, and nothing that comes breaks a server."""

from __future__ import annotations

import fcntl
import hmac
import os
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from sbb.engine import Engine, wait_until

Make = Callable[..., Engine]
PYTHON = "/usr/bin/python3"
MIB = 1 << 20

WRITE_AND_READ = """
import os, sys
data = os.urandom(5 << 20)
with open(sys.argv[1], "w+b") as file:
    for at in range(0, len(data), 700_001):
        file.write(data[at : at + 700_001])
    file.flush()
    os.fsync(file.fileno())
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    file.seek(0)
    assert file.read() == data
"""


@pytest.mark.parametrize("store", [False, True])
def test_on_one_host_client_and_servers_share_memory_as_long_as_both_are_there(buffer: Make, store: bool) -> None:
    engine = buffer(servers=2, store=store)
    clients = [engine.client(), engine.client()]
    for number, client in enumerate(clients):
        client.run(PYTHON, "-c", WRITE_AND_READ, f"{engine.target}/f{number}")
    assert len(engine.shared()) == 2
    clients[0].unmount()
    clients[1].process.kill()
    wait_until("nothing of a client that is gone is kept", lambda: not engine.shared())


def test_a_client_that_can_share_no_memory_uses_sockets(buffer: Make) -> None:
    engine = buffer()
    client = engine.client(limits={resource.RLIMIT_FSIZE: 8 << 20})
    client.run(PYTHON, "-c", WRITE_AND_READ, f"{engine.target}/f")
    assert engine.shared() == set()
    assert "no memory to share" in engine.client_log()


def test_clients_on_other_nodes_share_no_memory(buffer: Make) -> None:
    engine = buffer(unix=False)
    client = engine.client()
    client.run(PYTHON, "-c", WRITE_AND_READ, f"{engine.target}/f")
    assert engine.shared() == set() and client.transports() == {"tcp"}


HELLO, WELCOME, MESSAGE = "<4sIQQQ64s32s", "<iIIIQQ", "<IHHQIIQQQqQ"
"""protocol.h"""
KIND, READ, WRITE, SHARED, SHARES = 3 | 256, 1, 2, 128, 2


@contextmanager
def greeted(engine: Engine) -> Iterator[socket.socket]:
    """A connection for data that was let in, and is to offer memory now."""
    expires, side = int(time.time()) + 3600, b"client".ljust(8, b"\0")
    token = hmac.digest(engine.key, f"sbb-job 7 {expires}".encode(), "sha256")
    hello = struct.pack(HELLO, b"SBB1", KIND, 1234, 7, expires, engine.sid.encode(), os.urandom(32))
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(20)
        peer.connect(str(engine.run_folder(0) / "clients"))
        peer.sendall(hello)
        challenge = peer.recv(64, socket.MSG_WAITALL)
        peer.sendall(hmac.digest(token, side + hello + challenge[:32], "sha256"))
        welcome = struct.unpack(WELCOME, peer.recv(struct.calcsize(WELCOME), socket.MSG_WAITALL))
        assert welcome[0] == 0 and welcome[3] & SHARES
        yield peer


def offer(peer: socket.socket, *files: int) -> int:
    """What the server says to it: 0 or an errno."""
    socket.send_fds(peer, [b"x"], list(files))
    answer: int = struct.unpack("<i", peer.recv(4, socket.MSG_WAITALL))[0]
    return answer


def memory(size: int, seals: int) -> int:
    file = os.memfd_create("sbb-client", os.MFD_ALLOW_SEALING)
    os.ftruncate(file, size)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    return file


def test_memory_that_could_be_cut_short_is_not_taken(buffer: Make) -> None:
    engine = buffer()
    for file in (
        memory(MIB, 0),
        memory(MIB, fcntl.F_SEAL_GROW),
        memory(0, fcntl.F_SEAL_SHRINK),
        os.open("/", os.O_RDONLY),
    ):
        with greeted(engine) as peer:
            assert offer(peer, file) != 0
            peer.sendall(struct.pack(MESSAGE, 4, WRITE, 0, 1, 0, 0, 99, 0, 0, 0, 0) + b"text")
            assert peer.recv(struct.calcsize(MESSAGE), socket.MSG_WAITALL), "it goes on without"
        os.close(file)
    with greeted(engine) as peer:
        assert offer(peer) != 0
    assert engine.shared() == set()


@pytest.mark.parametrize(
    ("place", "size"), [(0, MIB + 1), (MIB, 1), (2**32 - 1, 2), (1, 2**64 - 1), (0, 0)],
)  # fmt: skip
def test_a_place_outside_the_memory_ends_the_connection_alone(buffer: Make, place: int, size: int) -> None:
    engine = buffer()
    file = memory(MIB, fcntl.F_SEAL_SHRINK)
    for op in (READ, WRITE):
        with greeted(engine) as peer:
            assert offer(peer, file) == 0
            peer.sendall(struct.pack(MESSAGE, 0, op, SHARED, 1, place, 0, 99, 0, size, 0, 0))
            answer = peer.recv(struct.calcsize(MESSAGE), socket.MSG_WAITALL)
            assert not answer or struct.unpack(MESSAGE, answer)[4] != 0
    os.close(file)
    engine.client().run(PYTHON, "-c", WRITE_AND_READ, f"{engine.target}/f")
