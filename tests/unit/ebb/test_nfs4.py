"""Asking an NFS server, or whoever has its port."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

from ebb.nfs4 import answers


def test_who_drips_an_answer_is_no_server() -> None:
    """A user's program may take a port that nobody has; each byte of it comes in time."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(struct.pack(">I", 0x80400000))
                while not ended.wait(0.05):
                    connection.sendall(b"x")

        thread = threading.Thread(target=drip)
        thread.start()
        begun = time.monotonic()
        assert not answers("127.0.0.1", listener.getsockname()[1], timeout=0.5)
        assert time.monotonic() - begun < 10
        ended.set()
        thread.join(10)
