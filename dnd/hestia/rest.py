"""HTTP towards an object store: bodies that stream, redirects with the body sent again, tries until patience ends."""

from __future__ import annotations

import http.client
import select
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urljoin, urlsplit

from dnd.hestia.store import Body, Pauses, StoreFault

TIMEOUT_SECONDS = 30.0
_REDIRECTS = 5
_SENDS = 5
_PIECE = 1 << 20
_LARGEST_ANSWER = 16 << 20
_PAUSES = (0.1, 0.5, 1.0, 2.0, 5.0)
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_MOVED = frozenset({301, 302, 307, 308})


class Refused(StoreFault):
    """The store answered with an error status."""

    def __init__(self, text: str, status: int) -> None:
        self.status = status
        super().__init__(text)


class Broken(Exception):
    """A connection failed or ended too early. The text says how."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question. path: below the base, as `objects/ID`. headers hold the token: no repr. size: bytes of `body`."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Body | None = None
    size: int = 0


class Rest:
    """Talks to one base URL. patience: seconds that the store may fail to answer before StoreFault is raised."""

    def __init__(self, base: str, patience: float, pause: Pauses, timeout: float = TIMEOUT_SECONDS) -> None:
        self._base, self._patience, self._pause = base.rstrip("/") + "/", patience, pause
        # A request that hangs must leave patience for others.
        self._timeout = min(timeout, patience / 3)

    def ask(self, request: Request, *, final: frozenset[int] = frozenset()) -> tuple[int, bytes]:
        """Status and body of a short answer. final: error statuses that are an answer, not a reason to try again.

        Raises Refused for another error status, StoreFault when there is no answer at all.
        """
        deadline, attempt, sends = time.monotonic() + self._patience, 0, 0
        while True:
            fault: StoreFault
            try:
                with _closing(self._open(request)) as answer:
                    content = _content(answer)
                if answer.status < 400 or answer.status in final:
                    return answer.status, content
                fault = self._refused(request, answer.status, content)
                if answer.status not in _TRY_AGAIN:
                    raise fault
            except Broken as error:
                fault = StoreFault(f"object store {self._base} does not answer to {_told(request)}: {error}")
            # A large body that was sent in vain some times will not arrive at the next try.
            sends += request.size > _PIECE
            if time.monotonic() > deadline or sends >= _SENDS:
                raise fault
            self._pause(_PAUSES[min(attempt, len(_PAUSES) - 1)])
            attempt += 1
            if request.size > _PIECE:
                deadline = time.monotonic() + self._patience

    def stream(self, request: Request, offset: int = 0) -> Iterator[bytes]:
        """The body of an answer from byte `offset` on. A connection that breaks is taken up where it broke.

        Raises as `ask` does; the time that counts is that without a new byte.
        """
        position, attempt, deadline = offset, 0, time.monotonic() + self._patience
        while True:
            fault: StoreFault
            try:
                for piece in self._pieces(request, position):
                    yield piece
                    position += len(piece)
                    attempt, deadline = 0, time.monotonic() + self._patience
                return
            except Broken as error:
                fault = StoreFault(f"object store {self._base} broke off {_told(request)} at byte {position}: {error}")
            except Refused as refused:
                if refused.status not in _TRY_AGAIN:
                    raise
                fault = refused
            if time.monotonic() > deadline:
                raise fault
            self._pause(_PAUSES[min(attempt, len(_PAUSES) - 1)])
            attempt += 1

    def _pieces(self, request: Request, position: int) -> Iterator[bytes]:
        headers = {**request.headers, "Range": f"bytes={position}-"} if position else request.headers
        with _closing(self._open(Request(request.method, request.path, headers))) as answer:
            if answer.status >= 400:
                raise self._refused(request, answer.status, _content(answer))
            # A store that knows no ranges answers 200 and begins at the beginning.
            skip = position if answer.status == 200 else 0
            left = answer.length
            while left != 0:
                piece = _read(answer, _PIECE)
                if not piece:
                    if left:
                        raise Broken(f"{left} bytes are missing")
                    return
                left = None if left is None else left - len(piece)
                if skip < len(piece):
                    yield piece[skip:]
                skip = max(0, skip - len(piece))

    def _open(self, request: Request) -> _Answer:
        url = urljoin(self._base, request.path)
        for _ in range(_REDIRECTS + 1):
            answer = _exchange(urlsplit(url), request, self._timeout)
            if answer.status not in _MOVED:
                return answer
            location = answer.response.getheader("Location")
            answer.connection.close()
            if not location:
                raise Broken("a redirect without a location")
            url = urljoin(url, location)
            if urlsplit(url).scheme not in ("http", "https"):
                raise Broken(f"a redirect to {url}")
        raise Broken(f"more than {_REDIRECTS} redirects")

    def _refused(self, request: Request, status: int, content: bytes) -> Refused:
        said = content[:200].decode("utf-8", "replace")
        for secret in (value for name, value in request.headers.items() if name == "authorization"):
            said = said.replace(secret, "...")
        return Refused(f"object store {self._base} answers {status} to {_told(request)}: {said}", status)


@dataclass(frozen=True, slots=True)
class _Answer:
    connection: http.client.HTTPConnection = field(repr=False)
    response: http.client.HTTPResponse = field(repr=False)

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def length(self) -> int | None:
        return self.response.length


class _closing:
    def __init__(self, answer: _Answer) -> None:
        self._answer = answer

    def __enter__(self) -> _Answer:
        return self._answer

    def __exit__(self, *_: object) -> None:
        self._answer.connection.close()


def _exchange(url: SplitResult, request: Request, timeout: float) -> _Answer:
    """Send a request, read the answer's head."""
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=timeout)
    try:
        connection.putrequest(request.method, url.path + (f"?{url.query}" if url.query else ""))
        for name, value in request.headers.items():
            connection.putheader(name, value)
        if request.body is not None or request.method in ("PUT", "POST"):
            connection.putheader("Content-Length", str(request.size))
        connection.endheaders()
        if request.body is not None:
            _send(connection.sock, request.body, request.size, timeout)
        return _Answer(connection, connection.getresponse())
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise Broken(_why(error)) from error
    except BaseException:
        connection.close()
        raise


def _send(sock: socket.socket, body: Body, size: int, timeout: float) -> None:
    """Send the body, but stop when the answer comes first: a redirect or a refusal, which nobody reads the body for."""
    sent = 0
    try:
        for piece in body():
            view = memoryview(piece)
            while view:
                if not isinstance(sock, ssl.SSLSocket) and _answered(sock, timeout):
                    return
                count = sock.send(view[:_PIECE])
                sent, view = sent + count, view[count:]
    except (BrokenPipeError, ConnectionResetError):
        return  # the answer, if there is one, says why
    if sent != size:
        raise Broken(f"{sent} bytes were there to be sent, not {size}")


def _answered(sock: socket.socket, timeout: float) -> bool:
    """Wait until more can be sent (False) or there is something to read (True). Raises TimeoutError."""
    waiting = select.poll()  # select(2) knows no descriptors above 1023
    waiting.register(sock, select.POLLIN | select.POLLOUT)
    events = waiting.poll(timeout * 1000)
    if not events:
        raise TimeoutError("the store takes no more data")
    return bool(events[0][1] & ~select.POLLOUT)


def _read(answer: _Answer, size: int) -> bytes:
    try:
        return answer.response.read(size)
    except (OSError, http.client.HTTPException) as error:
        raise Broken(_why(error)) from error


def _content(answer: _Answer) -> bytes:
    content = b""
    while len(content) < _LARGEST_ANSWER and (piece := _read(answer, _PIECE)):
        content += piece
    return content


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _told(request: Request) -> str:
    action = request.headers.get("hestia.hsm_action.action")
    subject = request.headers.get("hestia.hsm_action.subject_key")
    return f"{action} {subject}" if action else f"{request.method} {request.path}"
