"""Talk to a running `sbbd` over its control socket: one line each way, the answer in JSON (docs/sbb.md)."""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebb.errors import EnvironmentFault

_LARGEST_ANSWER = 64 << 20
_SHOWN_FILES = 3


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What `status` answers. Sizes in bytes, drain_rate in bytes a second. lost: files whose data is gone."""

    state: str
    clients: int
    dirty: int
    errors: tuple[str, ...]
    lost: tuple[str, ...]


def ask(path: Path, uid: int, request: str, *, timeout: float = 5.0) -> dict[str, Any]:
    """One question. The socket lies in a folder of the user's: the peer must be the user's process, and is not trusted.

    Raises EnvironmentFault if nobody answers in `timeout` seconds, if it is somebody else, or if the server refuses.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(str(path))
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            if struct.unpack("3i", credentials)[1] != uid:
                raise EnvironmentFault(f"{path} is not the socket of a server of uid {uid}")
            connection.sendall(request.encode("utf-8", "surrogateescape") + b"\n")
            with connection.makefile("rb") as answers:
                answer = json.loads(answers.readline(_LARGEST_ANSWER))
    except (OSError, ValueError) as error:
        raise EnvironmentFault(f"sbbd does not answer `{request.split()[0]}` at {path}: {error}") from error
    if not isinstance(answer, dict):
        raise EnvironmentFault(f"sbbd at {path} answers nonsense to `{request.split()[0]}`")
    if isinstance(answer.get("error"), str):
        raise EnvironmentFault(f"sbbd refuses `{request.split()[0]}`: {answer['error']}")
    return answer


def status(path: Path, uid: int, *, timeout: float = 5.0) -> ServerStatus:
    """How the server is. Raises EnvironmentFault as `ask` does."""
    answer = ask(path, uid, "status", timeout=timeout)
    try:
        errors = tuple(_one_line(f"{item['path']}: {item['error']}") for item in answer.get("errors", []))
        lost = tuple(_one_line(str(item)) for item in answer.get("lost", []))
        return ServerStatus(str(answer["state"]), int(answer.get("clients", 0)), int(answer["dirty"]), errors, lost)
    except (KeyError, TypeError, ValueError) as error:
        raise EnvironmentFault(f"sbbd at {path} answers `status` with something else: {error!r}") from error


def listed(items: tuple[str, ...]) -> str:
    """The first few of many, for a message."""
    more = f" and {len(items) - _SHOWN_FILES} more" if len(items) > _SHOWN_FILES else ""
    return ", ".join(items[:_SHOWN_FILES]) + more


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
