"""The unix socket for the Lua hooks and the `ebb` tool: one JSON line in, one JSON line out (docs/interfaces.md).

The kernel says who is at the other end (SO_PEERCRED); nothing in the request can.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import socketserver
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebb import log
from ebb.errors import EbbError, NotAllowed, NotFound, UserError, one_line

MAX_LINE = 1024 * 1024
# A peer that never finishes its line, or drips it, must not hold a thread for ever.
READ_SECONDS = 30.0
# Open connections of one user, and of all users that are neither root nor SlurmUser: hooks must always find a thread.
GUEST_CONNECTIONS, ALL_GUEST_CONNECTIONS = 16, 128

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Call:
    """One request: who asks (uid by the kernel) and what."""

    verb: str
    uid: int
    body: Mapping[str, Any]

    def integer(self, field: str, least: int = 0) -> int:
        """A whole number of the request. Raises UserError if it is none."""
        value = self.body.get(field)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"`{self.verb}` needs {field}, a whole number from {least}; got {value!r}")
        return value

    @property
    def wait(self) -> float:
        """Seconds for which the caller lets us hold the answer."""
        value = self.body.get("wait", 0)
        return float(min(max(value, 0), 30)) if isinstance(value, int | float) else 0.0


@dataclass(frozen=True, slots=True)
class Hook:
    """A verb and who may call it. open: any user (the handler looks at `Call.uid`); else root and SlurmUser."""

    handle: Callable[[Call], Mapping[str, Any]]
    open: bool = False


class HookServer(socketserver.ThreadingUnixStreamServer):
    """Serves the verbs at `path`, replacing a socket that a killed orchestrator left.

    Hooks are always served; a user who opens more connections than GUEST_CONNECTIONS is told so and cut off.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, path: Path, hooks: Mapping[str, Hook], slurm_uids: frozenset[int]) -> None:
        self.hooks, self.slurm_uids = hooks, slurm_uids
        self._guests: dict[int, int] = {}  # open connection -> uid
        self._guests_lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        # Bound aside and renamed: at no time is there a socket that refuses because it is not yet listening.
        aside = path.with_suffix(".new")
        aside.unlink(missing_ok=True)
        super().__init__(str(aside), _Handler)
        aside.chmod(0o666)
        os.replace(aside, path)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether one more connection of this peer is served; called for each, before its thread begins."""
        uid = _peer_uid(request)
        if uid in self.slurm_uids:
            return True
        with self._guests_lock:
            mine = Counter(self._guests.values())[uid]
            if mine < GUEST_CONNECTIONS and len(self._guests) < ALL_GUEST_CONNECTIONS:
                self._guests[id(request)] = uid
                return True
        text = "too many connections of users at once; close some, or try again in a moment"
        with contextlib.suppress(OSError):
            request.send(_line({"ok": False, "message": text}), socket.MSG_DONTWAIT)
        return False

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, served or not."""
        with self._guests_lock:
            self._guests.pop(id(request), None)
        super().shutdown_request(request)


class _Handler(socketserver.StreamRequestHandler):
    server: HookServer

    def handle(self) -> None:
        try:
            line = self._read_line()
            if not line:
                return
            self.connection.settimeout(READ_SECONDS)
            self._reply(line)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            # A hook that was killed (scancel) does not wait for its answer.
            return

    def _read_line(self) -> bytes:
        """The request, whole or longer than MAX_LINE. Raises TimeoutError: the deadline is for the whole line."""
        line, deadline = bytearray(), time.monotonic() + READ_SECONDS
        while len(line) <= MAX_LINE and not line.endswith(b"\n"):
            self.connection.settimeout(max(0.001, deadline - time.monotonic()))
            piece = self.connection.recv(65536)
            if not piece:
                break
            line += piece
        return bytes(line)

    def _reply(self, line: bytes) -> None:
        uid = _peer_uid(self.connection)
        try:
            request = _parse(line)
            # Both go into log lines, and any user may write them.
            request_id = one_line(str(request.get("request_id", "-"))[:80])
        except UserError as error:
            self._send({"ok": False, "message": error.text})
            return
        with log.request(request_id):
            self._send(self._answer(request, uid))

    def _answer(self, request: Mapping[str, Any], uid: int) -> Mapping[str, Any]:
        verb = one_line(str(request.get("verb"))[:80])
        try:
            hook = self.server.hooks.get(verb)
            if hook is None:
                raise NotFound(f"`{verb}` is no verb; known: {', '.join(sorted(self.server.hooks))}")
            if not hook.open and uid not in self.server.slurm_uids:
                raise NotAllowed(f"`{verb}` is for slurmctld's hooks; uid {uid} may not call it")
            return {"ok": True, **hook.handle(Call(verb, uid, request))}
        except EbbError as error:
            logger.warning("%s refused: %s", verb, error.text)
            return {"ok": False, "message": error.text}
        except Exception as error:
            logger.exception("%s failed", verb)
            return {
                "ok": False,
                "message": f"internal error ({type(error).__name__}); the administrator finds more in "
                f"the orchestrator's log under {log.current_request_id()}",
            }

    def _send(self, answer: Mapping[str, Any]) -> None:
        self.wfile.write(_line(answer))


def _line(answer: Mapping[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


def _peer_uid(connection: socket.socket) -> int:
    # struct ucred of unix(7): pid, uid, gid.
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def _parse(line: bytes) -> Mapping[str, Any]:
    if len(line) > MAX_LINE:
        raise UserError(f"the request is longer than {MAX_LINE} bytes")
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError("the request is no JSON line") from error
    if not isinstance(request, dict):
        raise UserError("the request must be a JSON object")
    return request
