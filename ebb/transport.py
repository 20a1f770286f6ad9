"""The caller's side of HTTP between Ebb's processes, each side proven by MUNGE. Format: docs/interfaces.md.

One short connection a call, so a restarted peer costs nothing. `ebb.http_server` is the other side.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import socket
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ebb import log, munge
from ebb.errors import EnvironmentFault, NotAllowed, from_wire

MAX_BODY = 8 * 1024 * 1024


def request_payload(audience: str, method: str, path: str, request_id: str, body: bytes) -> bytes:
    """What a request's credential must hold: this request, to this server."""
    digest = hashlib.sha256(body).hexdigest()
    return "\n".join(("ebb-request-v1", audience, method, path, request_id, digest)).encode()


def reply_payload(request_id: str, status: int, body: bytes) -> bytes:
    """What an answer's credential must hold: this answer, to this request."""
    return "\n".join(("ebb-reply-v1", request_id, str(status), hashlib.sha256(body).hexdigest())).encode()


class _Timed(io.RawIOBase):
    """What comes from a socket until a moment, however small the pieces: whoever sits on a port may drip for ever."""

    def __init__(self, connected: socket.socket, end: float) -> None:
        self._socket, self._end = connected, end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(max(0.001, self._end - time.monotonic()))
        return self._socket.recv_into(buffer)


class _Response(http.client.HTTPResponse):
    """An answer that is whole in time, or TimeoutError. end: by time.monotonic()."""

    def __init__(self, connected: socket.socket, end: float) -> None:
        super().__init__(connected, method="POST")
        self.fp.close()
        self.fp = io.BufferedReader(_Timed(connected, end))


class Client:
    """Calls verbs of one server. Made by whoever needs it; holds no connection; threads may share it."""

    def __init__(self, address: str, port: int, *, munge_socket: str = "", trusted_uids: Iterable[int] = (0,)) -> None:
        self.address, self.port = address, port
        self._munge_socket = munge_socket
        self._trusted = frozenset(trusted_uids)

    def call(
        self, verb: str, body: Mapping[str, Any], *, request_id: str | None = None, timeout: float = 10.0
    ) -> dict[str, Any]:
        """POST /v1/<verb> and return the JSON answer.

        timeout: seconds for connecting, and for the whole answer; give more than any `wait` in the body.
        Raises the error that the server answered with, EnvironmentFault if it cannot be reached or cannot prove who
        it is, NotAllowed if its proof is not one of a trusted process for this answer.
        """
        request_id = request_id or log.current_request_id()
        path, data = f"/v1/{verb}", json.dumps(body).encode()
        payload = request_payload(f"{self.address}:{self.port}", "POST", path, request_id, data)
        headers = {
            "Authorization": f"MUNGE {munge.encode(payload, self._munge_socket)}",
            "Content-Type": "application/json",
            "X-Request-Id": request_id,
        }
        connection = http.client.HTTPConnection(self.address, self.port, timeout=timeout)
        try:
            connection.request("POST", path, body=data, headers=headers)
            response = _Response(connection.sock, time.monotonic() + timeout)
            response.begin()
            answer = response.read(MAX_BODY + 1)
            proof = response.getheader("X-Ebb-Munge", "")
            status = response.status
        except (OSError, http.client.HTTPException) as error:
            what = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or repr(error)
            raise EnvironmentFault(f"{self.address}:{self.port} did not answer `{verb}`: {what}") from error
        finally:
            connection.close()
        self._verify(proof, request_id, status, answer)
        decoded: dict[str, Any] = json.loads(answer)
        if status != 200:
            raise from_wire(str(decoded.get("kind")), status, str(decoded.get("error")))
        return decoded

    def _verify(self, proof: str, request_id: str, status: int, body: bytes) -> None:
        if not proof:
            # Of such an answer nothing is told either, not even its status: anybody may have given it.
            raise EnvironmentFault(
                f"{self.address}:{self.port} cannot prove who it is: is munged running there? If it is, another "
                "program listens on that port"
            )
        decoded = munge.decode(proof, self._munge_socket)
        if decoded.uid not in self._trusted or decoded.payload != reply_payload(request_id, status, body):
            raise NotAllowed(f"{self.address}:{self.port}: the answer's MUNGE proof (uid {decoded.uid}) does not fit")
