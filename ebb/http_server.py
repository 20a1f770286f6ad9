"""The server's side of HTTP between Ebb's processes: waitress in front of a table of verbs.

Apart from `ebb.transport`, so that a compute node, which only calls, need not have or load it.
"""

from __future__ import annotations

import json
import logging
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import waitress.server

from ebb import log, munge
from ebb.errors import EbbError, InternalError, NotAllowed, NotFound, UserError
from ebb.transport import MAX_BODY, reply_payload, request_payload

_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    413: "Content Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

# Each connection is one descriptor and no thread until its request is whole, so there can be many. Who holds some
# without a request keeps nobody out: at the limit, of one address or of all, the oldest of them makes room.
MOST_CONNECTIONS, MOST_OF_ONE_ADDRESS = 4096, 1024
REQUEST_SECONDS = 15
PAGE_SECONDS = 1.0
_OPEN_FILES = 65536

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """A verified call: who (uid, by MUNGE), from where (peer address), under which id, and what."""

    verb: str
    body: Mapping[str, Any]
    request_id: str
    uid: int
    peer: str


@dataclass(frozen=True, slots=True)
class Page:
    """An answer of a GET page: anyone who reaches the port may read it."""

    content_type: str
    body: bytes


class _Kept:
    """A page made at most once a second, by one thread: anybody may ask for it as often as he likes."""

    def __init__(self, make: Callable[[], Page]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: tuple[float, Page] | None = None

    def get(self) -> Page:
        """The page, at most PAGE_SECONDS old."""
        with self._lock:
            if self._made is None or time.monotonic() - self._made[0] > PAGE_SECONDS:
                self._made = time.monotonic(), self._make()
            return self._made[1]


Verbs = Mapping[str, Callable[[Request], Mapping[str, Any]]]
Pages = Mapping[str, Callable[[], Page]]


class Server:
    """Serves a table of verbs (POST, MUNGE, allowed uids only) and pages (GET, open) on one address."""

    def __init__(
        self,
        address: str,
        port: int,
        verbs: Verbs,
        *,
        allowed_uids: Iterable[int] = (0,),
        pages: Pages | None = None,
        audience: str | None = None,
        munge_socket: str = "",
        threads: int = 32,
    ) -> None:
        self._verbs = verbs
        self._pages = {path: _Kept(make) for path, make in (pages or {}).items()}
        self._allowed = frozenset(allowed_uids)
        self._audience = audience or f"{address}:{port}"
        self._munge_socket = munge_socket
        # Raises OSError at once if the address is taken: the daemon's start reports it.
        parts: dict[int, Any] = {}
        raise_open_files()
        self._server = waitress.server.create_server(
            self._application,
            map=parts,
            host=address,
            port=port,
            threads=threads,
            ident=None,
            max_request_body_size=MAX_BODY,
            cleanup_interval=REQUEST_SECONDS // 3,
            asyncore_use_poll=True,  # select() ends the server at descriptor 1024
            clear_untrusted_proxy_headers=True,
        )
        listeners = [each for each in parts.values() if isinstance(each, waitress.server.TcpWSGIServer)]
        for listener in listeners:
            # Waitress counts those of all listeners, and would stop accepting: `_guard` never lets it come there.
            listener.adj.connection_limit = len(listeners) * MOST_CONNECTIONS + 100
            _guard(listener)

    def serve_forever(self) -> None:
        """Serve until `close` or SystemExit in this thread."""
        self._server.run()

    def close(self) -> None:
        """Stop listening and end serve_forever."""
        self._server.close()

    def _application(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        if environ["REQUEST_METHOD"] == "GET":
            return self._answer_page(environ, start_response)
        body = environ["wsgi.input"].read(MAX_BODY)
        request_id = environ.get("HTTP_X_REQUEST_ID", "-")[:80]
        with log.request(request_id):
            status, answer = self._answer_verb(environ, body, request_id)
            data = json.dumps(answer).encode()
            headers = [("Content-Type", "application/json"), ("Content-Length", str(len(data)))]
            try:
                proof = munge.encode(reply_payload(request_id, status, data), self._munge_socket)
                headers.append(("X-Ebb-Munge", proof))
            except EbbError as error:
                logger.error("answer goes out without proof: %s", error.text)
        start_response(f"{status} {_REASONS.get(status, 'Error')}", headers)
        return [data]

    def _answer_page(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        page = self._pages.get(environ.get("PATH_INFO", ""))
        if page is None:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"no such page\n"]
        answer = page.get()
        start_response("200 OK", [("Content-Type", answer.content_type), ("Content-Length", str(len(answer.body)))])
        return [answer.body]

    def _answer_verb(self, environ: dict[str, Any], body: bytes, request_id: str) -> tuple[int, Mapping[str, Any]]:
        try:
            return 200, self._call(environ, body, request_id)
        except EbbError as error:
            logger.log(
                logging.ERROR if isinstance(error, InternalError) else logging.WARNING,
                "%s: %s",
                environ.get("PATH_INFO"),
                error.text,
            )
            return error.http_status, {"error": error.text, "kind": error.kind}
        except Exception as error:
            logger.exception("%s failed", environ.get("PATH_INFO"))
            text = f"internal error: {type(error).__name__}; the log has more under {request_id}"
            return 500, {"error": text, "kind": "internal"}

    def _call(self, environ: dict[str, Any], body: bytes, request_id: str) -> Mapping[str, Any]:
        path = environ.get("PATH_INFO", "")
        scheme, _, credential = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme != "MUNGE":
            raise NotAllowed("a MUNGE credential is required in the Authorization header")
        proof = munge.decode(credential, self._munge_socket)
        if proof.payload != request_payload(self._audience, "POST", path, request_id, body):
            raise NotAllowed("the MUNGE credential was made for another request")
        if proof.uid not in self._allowed:
            raise NotAllowed(f"uid {proof.uid} may not call {path}")
        verb = path.removeprefix("/v1/")
        handler = self._verbs.get(verb)
        if handler is None or not path.startswith("/v1/"):
            raise NotFound(f"`{path}` is no verb of this server; known: {', '.join(sorted(self._verbs))}")
        try:
            decoded = json.loads(body)
        except ValueError as error:
            raise UserError(f"the body of `{verb}` is no JSON") from error
        if not isinstance(decoded, dict):
            raise UserError(f"the body of `{verb}` must be a JSON object")
        return handler(Request(verb, decoded, request_id, proof.uid, environ.get("REMOTE_ADDR", "")))


def _guard(listener: Any) -> None:
    """Keep anybody who reaches the port from holding all connections of a waitress listener."""
    make_channel = listener.channel_class

    def channel(server: Any, connection: socket.socket, address: Any, *rest: Any, **more: Any) -> None:
        if _room(list(server.active_channels.values()), address[0]):
            make_channel(server, connection, address, *rest, **more)
        else:
            connection.close()

    def maintenance(now: float) -> None:
        # Waitress itself counts from the last byte, so a request that drips would stay for ever.
        for each in list(listener.active_channels.values()):
            since = each.last_activity if each.total_outbufs_len else each.creation_time  # it reads, or still asks
            if not each.requests and since < now - REQUEST_SECONDS:
                each.will_close = True

    listener.channel_class, listener.maintenance = channel, maintenance


def _room(channels: list[Any], address: str) -> bool:
    """Whether there is room for one more connection from an address, made if need be. channels: the oldest first."""
    if len(channels) < min(MOST_CONNECTIONS, MOST_OF_ONE_ADDRESS):
        return True
    own = [each for each in channels if each.addr[0] == address]
    if len(own) < MOST_OF_ONE_ADDRESS and len(channels) < MOST_CONNECTIONS:
        return True
    held = own if len(own) >= MOST_OF_ONE_ADDRESS else channels
    idle = next((each for each in held if not each.requests and not each.total_outbufs_len), None)
    if idle is not None:
        idle.handle_close()
    return idle is not None


def raise_open_files() -> None:
    """Let this process open many files, each connection being one; children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
