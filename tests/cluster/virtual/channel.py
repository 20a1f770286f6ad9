"""Talks to process 1 of a node (`node/process1.py`, which has the protocol), from outside the cluster's network.

As a program it runs one command on a node with this process's input, outputs, terminal, signals and exit code:

    python channel.py INIT_PID ADDRESS SECRET_FILE USER -- COMMAND...

It needs nothing but the standard library, so that it starts quickly.
"""

import ctypes
import fcntl
import json
import os
import selectors
import signal
import socket
import struct
import sys
import termios
import threading
import tty
from pathlib import Path
from types import FrameType
from typing import Any

PORT = 1
FORWARDED = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
BROKEN = 255


def connect(init_pid: int, address: str, timeout: float = 10.0, port: int = PORT) -> socket.socket:
    """A connection to a node from within the network namespace of process `init_pid`; ours stays what it is.

    A socket stays in the network that its thread was in when it was made. Raises OSError.
    """
    result: list[socket.socket | OSError] = []

    def make() -> None:
        try:
            fd = os.open(f"/proc/{init_pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(fd, 0) != 0:
                    raise OSError(ctypes.get_errno(), "cannot enter the cluster's network")
            finally:
                os.close(fd)
            result.append(socket.create_connection((address, port), timeout))
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    result[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    result[0].setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a node that lost its power says nothing
    for option, value in ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 5)):
        result[0].setsockopt(socket.IPPROTO_TCP, option, value)
    return result[0]


def ask(connection: socket.socket, timeout: float, **request: Any) -> dict[str, Any]:
    """One request, one answer; for every verb but `run`. Raises OSError, ValueError."""
    connection.settimeout(timeout)
    with connection, connection.makefile("rw") as stream:
        stream.write(json.dumps(request) + "\n")
        stream.flush()
        answer: dict[str, Any] = json.loads(stream.readline())
        return answer


class Session:
    """One command on a node, as `ssh` would run it."""

    def __init__(self, connection: socket.socket, terminal: bool) -> None:
        self.connection = connection
        self.terminal = terminal
        self.received = bytearray()
        self.selector = selectors.DefaultSelector()
        self.wake, self.waker = socket.socketpair()
        self.signals: list[int] = []

    def send(self, kind: bytes, payload: bytes) -> None:
        """One frame."""
        self.connection.sendall(kind + len(payload).to_bytes(4, "big") + payload)

    def caught(self, number: int, frame: FrameType | None) -> None:
        """A signal for the command; the loop passes it on."""
        self.signals.append(number)

    def run(self, request: dict[str, Any]) -> int:
        """Start it, carry everything to and fro, and give its exit code (128 + N for a signal)."""
        self.connection.settimeout(None)
        self.connection.sendall(json.dumps(request).encode() + b"\n")
        self.waker.setblocking(False)
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        for number in (*FORWARDED, signal.SIGWINCH):
            signal.signal(number, self.caught)
        self.selector.register(self.connection, selectors.EVENT_READ)
        self.selector.register(self.wake, selectors.EVENT_READ)
        self._watch_input()
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.wake:
                    self.wake.recv(64)
                elif key.fileobj is self.connection:
                    code = self._output()
                    if code is not None:
                        return code
                else:
                    self._input()
            while self.signals:
                self._signal(self.signals.pop(0))

    def _watch_input(self) -> None:
        try:
            self.selector.register(0, selectors.EVENT_READ)
        except PermissionError:  # a plain file is always ready and cannot be watched
            while data := os.read(0, 65536):
                self.send(b"i", data)
            self.send(b"z", b"")

    def _input(self) -> None:
        data = os.read(0, 65536)
        if data:
            self.send(b"i", data)
        else:
            self.selector.unregister(0)
            self.send(b"z", b"")

    def _signal(self, number: int) -> None:
        if number == signal.SIGWINCH:
            if self.terminal:
                self.send(b"w", "{} {}".format(*window()).encode())
        else:
            self.send(b"s", str(int(number)).encode())

    def _output(self) -> int | None:
        data = self.connection.recv(65536)
        if not data:
            text = bytes(self.received).decode(errors="replace").strip()
            print(f"the node broke off{': ' + text if text else ''}", file=sys.stderr)
            return BROKEN
        self.received += data
        while len(self.received) >= 5:
            kind, length = bytes(self.received[:1]), int.from_bytes(self.received[1:5], "big")
            if kind not in (b"o", b"e", b"x") or len(self.received) < 5 + length:
                break
            payload = bytes(self.received[5 : 5 + length])
            del self.received[: 5 + length]
            if kind == b"x":
                code = int(payload)
                return code if code >= 0 else 128 - code
            _write(1 if kind == b"o" else 2, payload)
        return None


def _write(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            with selectors.DefaultSelector() as selector:
                selector.register(fd, selectors.EVENT_WRITE)
                selector.select()
        except BrokenPipeError:
            return


def window() -> tuple[int, int]:
    """Rows and columns of the terminal."""
    rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))
    return rows or 24, columns or 80


def environment(user: str) -> dict[str, str]:
    """What a login gives."""
    sbin = "/usr/local/sbin:/usr/sbin:/sbin:" if user == "root" else ""
    return {
        "HOME": "/root" if user == "root" else f"/home/{user}", "USER": user, "LOGNAME": user, "SHELL": "/bin/bash",
        "PATH": f"{sbin}/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "TERM": os.environ.get("TERM", "dumb"),
    }  # fmt: skip


def execute(init_pid: int, address: str, secret: str, user: str, command: list[str]) -> int:
    """Run a command on a node; see above. Called last in a process: it keeps the signals. Raises OSError."""
    terminal = os.isatty(0) and os.isatty(1)
    connection = connect(init_pid, address)
    session = Session(connection, terminal)
    request = {"secret": secret, "verb": "run", "argv": command, "user": user, "env": environment(user),
               "tty": list(window()) if terminal else None}  # fmt: skip
    before = termios.tcgetattr(0) if terminal else None
    try:
        if before:
            tty.setraw(0, termios.TCSADRAIN)  # what was typed before stays
        return session.run(request)
    except (BrokenPipeError, ConnectionError, TimeoutError) as error:
        print(f"the node at {address} broke off: {error}", file=sys.stderr)
        return BROKEN
    finally:
        if before:
            termios.tcsetattr(0, termios.TCSADRAIN, before)


def main(words: list[str]) -> int:
    """See above."""
    pid, address, secret, user, _, *command = words
    try:
        return execute(int(pid), address, Path(secret).read_text().strip(), user, command)
    except OSError as error:
        print(f"the node at {address} does not answer: {error}", file=sys.stderr)
        return BROKEN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
