"""A Hestia server for tests, as far as its HTTP API is known (docs/hestia.md), with faults on demand.

Faithful where it matters: actions in headers, a token from `users`, a put that answers `running`, 307 to a worker on
another port, DELETE that fails with 500 while a tier has data, `size` as text.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "DoaDrn1Y5h/8KTpYE/DXUGimWhpMk5e/Y3utspFArc8="
TIERS = 3


class FakeHestia:
    """The store's content and its faults. A fault is consumed by the request that it befalls, `times` times."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.data: dict[str, dict[int, bytes]] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.faults: dict[str, int] = {}
        self.redirects = False
        self.discards = False  # keep only how long the data are, and give zeros
        self.lengths: dict[str, int] = {}
        self.token = TOKEN
        self.late: dict[str, tuple[float, bytes]] = {}
        self.lock = threading.Lock()
        self.front, self.worker = _server(self, 0), _server(self, 1)

    @property
    def url(self) -> str:
        """The front's base URL."""
        return f"http://127.0.0.1:{self.front.server_port}/api/v1"

    def fail(self, fault: str, times: int = 1) -> None:
        """Let the next `times` requests that it fits run into `fault`."""
        self.faults[fault] = times

    def hit(self, fault: str) -> bool:
        """Whether this request is to run into it."""
        with self.lock:
            left = self.faults.get(fault, 0)
            self.faults[fault] = left - 1
            return left > 0

    def close(self) -> None:
        """Stop listening."""
        for server in (self.front, self.worker):
            server.shutdown()
            server.server_close()


def _server(store: FakeHestia, number: int) -> ThreadingHTTPServer:
    class Handler(_Handler):
        hestia = store
        is_worker = number == 1

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that went away is none of ours."""

    server = Quiet(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    hestia: FakeHestia
    is_worker: bool
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._handle()

    do_PUT = do_POST = do_DELETE = do_GET

    def _handle(self) -> None:
        hestia = self.hestia
        path = self.path.removeprefix("/api/v1/").rstrip("/")
        action = self.headers.get("hestia.hsm_action.action", "")
        hestia.requests.append((self.command, path, action))
        self.close_connection = True
        if hestia.hit("hang"):
            time.sleep(3)
            return
        if hestia.hit("drop"):
            return
        if hestia.hit("500") or (action and hestia.hit(f"500 {action}")):
            return self._answer(500, b"internal error near " + hestia.token.encode())
        if path == "users":
            return self._json([{"id": "u", "name": "hestia_default_user", "tokens": [{"value": hestia.token}]}])
        if self.headers.get("authorization") != hestia.token:
            return self._answer(401, b"no")
        if path.startswith("objects"):
            return self._object(path.removeprefix("objects").strip("/"))
        if path == "actions":
            if hestia.redirects and not self.is_worker and action in ("put_data", "get_data"):
                self.send_response(307)
                self.send_header("Location", f"http://127.0.0.1:{hestia.worker.server_port}{self.path}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return None
            return self._action(action, self.headers.get("hestia.hsm_action.subject_key", ""))
        return self._answer(404, b"")

    def _object(self, object_id: str) -> None:
        hestia = self.hestia
        if self.command == "PUT":
            body = json.loads(self._body() or b"{}")
            object_id = body["id"]
            hestia.objects.setdefault(object_id, {"id": object_id, "name": body.get("name", ""), "type": "object"})
            hestia.data.setdefault(object_id, {})
            return self._json([self._shown(object_id)])
        if not object_id:
            return self._json([self._shown(each) for each in hestia.objects])
        if object_id not in hestia.objects:
            return self._answer(404, b"")
        if self.command == "GET":
            return self._json([self._shown(object_id)])
        if hestia.data[object_id]:
            return self._answer(500, b"data remains")
        del hestia.objects[object_id], hestia.data[object_id]
        return self._answer(201, b"")

    def _shown(self, object_id: str) -> dict[str, Any]:
        tiers = self.hestia.data[object_id]
        size = max((len(content) for content in tiers.values()), default=0)
        return {**self.hestia.objects[object_id], "size": str(size), "tiers": sorted(tiers)}

    def _action(self, action: str, object_id: str) -> None:
        hestia = self.hestia
        source = int(self.headers.get("hestia.hsm_action.source_tier", "0"))
        target = int(self.headers.get("hestia.hsm_action.target_tier", "0"))
        if object_id not in hestia.objects:
            return self._answer(404, b"")
        tiers = hestia.data[object_id]
        if hestia.discards and action in ("put_data", "get_data"):
            return self._zeros(action, object_id)
        if self.command == "PUT" and action == "put_data":
            if hestia.hit("put breaks"):
                self.rfile.read(100000)
                return None
            content = self._body()
            if len(content) < int(self.headers["Content-Length"]):
                return None  # the sender broke off
            if hestia.hit("put loses the end"):
                content = content[:-1000]
            if hestia.hit("put flips a bit"):
                content = content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]
            if hestia.hit("put comes late"):
                hestia.late[object_id] = (time.monotonic() + 0.5, content)
            else:
                tiers[target] = content
            return self._json({"action": action, "status": "running", "id": "a"})
        if self.command == "GET" and action == "get_data":
            return self._data(object_id, tiers)
        if self.command == "POST" and source not in tiers:
            return self._answer(500, b"no data there")
        if action in ("copy_data", "move_data"):
            tiers[target] = tiers[source]
        if action in ("move_data", "release_data"):
            del tiers[source]
        return self._json({"action": action, "status": "finished_ok"})

    def _data(self, object_id: str, tiers: dict[int, bytes]) -> None:
        due, content = self.hestia.late.get(object_id, (0.0, b""))
        if due and time.monotonic() > due:
            tiers[0] = content
            del self.hestia.late[object_id]
        if not tiers:
            return self._answer(404, b"")
        content = tiers[min(tiers)]
        if self.hestia.hit("get lies"):
            content = b"\0" * len(content)
        begin = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if "Range" in self.headers else 0
        ranges = begin and not self.hestia.hit("no ranges")
        content = content[begin:] if ranges else content
        self.send_response(206 if ranges else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.hestia.hit("get breaks"):
            content = content[: len(content) // 2]
        slowly = self.hestia.hit("get is slow")
        for at in range(0, len(content), len(content) // 16 + 1 if slowly else len(content) or 1):
            time.sleep(0.2 if slowly else 0)
            self.wfile.write(content[at : at + len(content) // 16 + 1] if slowly else content)
        return None

    def _zeros(self, action: str, object_id: str) -> None:
        if action == "put_data":
            length = left = int(self.headers["Content-Length"])
            while left and (piece := self.rfile.read(min(left, 1 << 20))):
                left -= len(piece)
            self.hestia.lengths[object_id] = length - left
            return self._json({"action": action, "status": "running"})
        length = self.hestia.lengths[object_id]
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        for at in range(0, length, 1 << 20):
            self.wfile.write(bytes(min(1 << 20, length - at)))
        return None

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def _json(self, answer: object) -> None:
        self._answer(200, json.dumps(answer).encode())

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def running() -> Iterator[FakeHestia]:
    """A server, for the length of a block."""
    hestia = FakeHestia()
    try:
        yield hestia
    finally:
        hestia.close()
