"""Talk to a running `sbbd` over its control socket: one line each way, the answer in JSON (docs/sbb.md).

The server is the user's process, and so may be whatever listens in its place: an answer has a time and a size, and what
is not as it should be is no answer.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ebb.errors import EnvironmentFault

LONG_ANSWER, OWNERS_ANSWER = 16 << 20, 1 << 30
"""Bytes that an answer may have which names every file, to root and to the server's owner; the Python of it can be
twenty times as large.
"""
_MOST = 1 << 20
_MOST_NAMES = 100
"""Files that `status` names under `errors`, and under `lost`."""
_MOST_TEXT = 2000
_LARGEST = 2**63 - 1
_STATES = ("running", "draining", "failed", "drained")
_SHOWN_FILES = 3


class Silent(EnvironmentFault):
    """The server did not answer in time: it may do so later."""


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What `status` answers. dirty: bytes that are not drained. errors: why files cannot be drained. lost: files whose
    data is gone, and how many they are: not all of them are named.
    """

    state: str
    clients: int
    dirty: int
    errors: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    lost_files: int = 0


def ask(path: Path, uid: int, request: str, *, timeout: float = 5.0, most: int = _MOST) -> dict[str, Any]:
    """One question. The socket lies in a folder of the user's: the peer must be the user's process, and is not trusted.

    timeout: seconds for all of it. most: bytes of the answer. Texts in it can hold surrogates: see `one_line`.
    Raises Silent if the answer is not whole in that time, EnvironmentFault if nobody listens, if it is somebody else,
    if the answer is too long or makes no sense, or if the server refuses.
    """
    word, end = request.split()[0], time.monotonic() + timeout
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(str(path))
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            if struct.unpack("3i", credentials)[1] != uid:
                raise EnvironmentFault(f"{path} is not the socket of a server of uid {uid}")
            connection.settimeout(_left(end))
            connection.sendall(request.encode("utf-8", "surrogateescape") + b"\n")
            line = _line(connection, end, most)
    except TimeoutError as error:
        raise Silent(f"sbbd does not answer `{word}` at {path} within {timeout:g} s") from error
    except OSError as error:
        raise EnvironmentFault(f"sbbd does not answer `{word}` at {path}: {error.strerror or error}") from error
    if len(line) > most:
        raise EnvironmentFault(f"sbbd at {path} answers `{word}` with more than {most} bytes")
    try:
        # File names are bytes: those that are not UTF-8 stay what they are. Numbers that JSON lacks are refused.
        answer = json.loads(line.decode("utf-8", "surrogateescape"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _nonsense(path, word) from error
    if not isinstance(answer, dict):
        raise _nonsense(path, word)
    if isinstance(answer.get("error"), str):
        raise EnvironmentFault(f"sbbd refuses `{word}`: {one_line(answer['error'])}")
    return answer


def status(path: Path, uid: int, request: str = "status", *, timeout: float = 5.0) -> ServerStatus:
    """How the server is; `drain` is answered with it too. Raises Silent and EnvironmentFault as `ask` does."""
    answer = ask(path, uid, request, timeout=timeout)
    try:
        if answer["state"] not in _STATES:
            raise ValueError("an unknown state")
        errors = tuple(one_line(f"{_text(item['path'])}: {_text(item['error'])}") for item in _list(answer, "errors"))
        lost = tuple(one_line(_text(item)) for item in _list(answer, "lost"))
        count = max(len(lost), _number(answer, "lost_files", len(lost)))
        return ServerStatus(
            answer["state"],
            _number(answer, "clients", 0),
            _number(answer, "dirty"),
            errors,
            lost,
            count if lost else 0,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _nonsense(path, request) from error


def listed(items: tuple[str, ...], count: int = 0) -> str:
    """The first few of many, for a message. count: how many there are, if that is more than are given."""
    more = max(len(items), count) - min(len(items), _SHOWN_FILES)
    return ", ".join(items[:_SHOWN_FILES]) + (f" and {more} more" if more else "")


def one_line(text: str) -> str:
    """Such a text for a message: of one line, not too long, and of characters that can be written down anywhere.

    A byte that is not UTF-8 is shown with a backslash, as backslashreplace does.
    """
    shown = "".join(_character(c) for c in text[:_MOST_TEXT])
    return shown if len(text) <= _MOST_TEXT else shown + "..."


def _character(c: str) -> str:
    if "\udc80" <= c <= "\udcff":  # a byte, by surrogateescape
        return f"\\x{ord(c) - 0xDC00:02x}"
    return c if c.isprintable() else "?"


def _line(connection: socket.socket, end: float, most: int) -> bytes:
    """The bytes of the first line: whoever answers may drip. Raises OSError, TimeoutError at the end of the time."""
    line = bytearray()
    while len(line) <= most:
        connection.settimeout(_left(end))
        piece = connection.recv(65536)
        if not piece:
            break
        line += piece
        if b"\n" in piece:
            return bytes(line.partition(b"\n")[0])
    return bytes(line)


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)


def _nonsense(path: Path, request: str) -> EnvironmentFault:
    return EnvironmentFault(f"sbbd at {path} answers nonsense to `{request}`")


def _list(answer: dict[str, Any], key: str) -> list[Any]:
    found = answer.get(key, [])
    if not isinstance(found, list):
        raise TypeError(key)
    return found[:_MOST_NAMES]


def _text(item: object) -> str:
    if not isinstance(item, str):
        raise TypeError("no text")
    return item


def _number(answer: dict[str, Any], key: str, otherwise: int | None = None) -> int:
    found = answer.get(key, otherwise)
    if type(found) is not int or not 0 <= found <= _LARGEST:  # True is an int too
        raise ValueError(key)
    return found
