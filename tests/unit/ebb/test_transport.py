"""The transport with a real munged: who may call, what is refused, what errors look like on the other side."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from ebb import http_server, munge
from ebb.errors import Conflict, EnvironmentFault, InternalError, NotAllowed, NotFound
from ebb.http_server import Page, Request, Server
from ebb.transport import Client, reply_payload, request_payload


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def echo(request: Request) -> dict[str, object]:
    return {"verb": request.verb, "body": dict(request.body), "id": request.request_id, "uid": request.uid}


def conflict(_: Request) -> dict[str, object]:
    raise Conflict("buffer 42 is in use by job 7")


def crash(_: Request) -> dict[str, object]:
    raise ZeroDivisionError("a secret detail")


SLOW_BEGAN, SLOW_MAY_END = threading.Event(), threading.Event()


def slow(_: Request) -> dict[str, object]:
    SLOW_BEGAN.set()
    assert SLOW_MAY_END.wait(10)
    return {}


MADE = iter(range(1000))


def count() -> Page:
    return Page("text/plain", str(next(MADE)).encode())


@pytest.fixture()
def server(munge_socket: str) -> Iterator[Server]:
    port = free_port()
    served = Server(
        "127.0.0.1",
        port,
        {"echo": echo, "conflict": conflict, "crash": crash, "slow": slow},
        pages={"/metrics": lambda: Page("text/plain", b"up 1\n"), "/count": count},
        munge_socket=munge_socket,
        allowed_uids=[os.getuid()],
    )
    served.port = port  # type: ignore[attr-defined]
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield served
    served.close()
    thread.join(5)


@pytest.fixture()
def client(server: Server, munge_socket: str) -> Client:
    return Client("127.0.0.1", server.port, munge_socket=munge_socket, trusted_uids=[os.getuid()])  # type: ignore[attr-defined]


def test_a_call_arrives_with_its_id_and_the_callers_uid(client: Client) -> None:
    answer = client.call("echo", {"sid": "42", "text": "ü"}, request_id="j42-setup-1a2b")
    assert answer == {"verb": "echo", "body": {"sid": "42", "text": "ü"}, "id": "j42-setup-1a2b", "uid": os.getuid()}


def test_an_error_comes_back_as_the_same_error(client: Client) -> None:
    with pytest.raises(Conflict, match="buffer 42 is in use by job 7"):
        client.call("conflict", {})
    with pytest.raises(NotFound, match="known: conflict, crash, echo"):
        client.call("destroy", {})


def test_a_defect_names_its_request_and_nothing_inside(client: Client) -> None:
    with pytest.raises(InternalError, match=r"ZeroDivisionError.*orch-77") as caught:
        client.call("crash", {}, request_id="orch-77")
    assert "secret" not in caught.value.text


def test_a_dead_server_is_an_environment_fault(munge_socket: str) -> None:
    with pytest.raises(EnvironmentFault, match="did not answer `echo`"):
        Client("127.0.0.1", free_port(), munge_socket=munge_socket).call("echo", {}, timeout=2)


def post(port: int, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("POST", path, body=body, headers=headers)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_without_a_credential_nothing_is_answered(server: Server) -> None:
    status, answer = post(server.port, "/v1/echo", b"{}", {})  # type: ignore[attr-defined]
    assert status == 403 and "MUNGE credential is required" in str(answer["error"])


@pytest.mark.parametrize("change", ["body", "path", "audience", "id"])
def test_a_credential_is_good_for_its_own_request_only(server: Server, munge_socket: str, change: str) -> None:
    port = server.port  # type: ignore[attr-defined]
    audience = "127.0.0.1:1" if change == "audience" else f"127.0.0.1:{port}"
    path = "/v1/conflict" if change == "path" else "/v1/echo"
    payload = request_payload(
        audience,
        "POST",
        path,
        "other" if change == "id" else "id-1",
        b"{}" if change != "body" else b'{"discard":true}',
    )
    headers = {"Authorization": f"MUNGE {munge.encode(payload, munge_socket)}", "X-Request-Id": "id-1"}
    status, answer = post(port, "/v1/echo", b"{}", headers)
    assert status == 403 and "another request" in str(answer["error"])


def test_a_replay_is_refused(server: Server, munge_socket: str) -> None:
    port = server.port  # type: ignore[attr-defined]
    payload = request_payload(f"127.0.0.1:{port}", "POST", "/v1/echo", "id-1", b"{}")
    headers = {"Authorization": f"MUNGE {munge.encode(payload, munge_socket)}", "X-Request-Id": "id-1"}
    assert post(port, "/v1/echo", b"{}", headers)[0] == 200
    status, answer = post(port, "/v1/echo", b"{}", headers)
    assert status == 403 and "eplayed" in str(answer["error"])


def test_other_users_may_not_call(munge_socket: str) -> None:
    port = free_port()
    served = Server("127.0.0.1", port, {"echo": echo}, munge_socket=munge_socket, allowed_uids=[os.getuid() + 1])
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    try:
        with pytest.raises(NotAllowed, match="may not call /v1/echo"):
            Client("127.0.0.1", port, munge_socket=munge_socket, trusted_uids=[os.getuid()]).call("echo", {})
    finally:
        served.close()
        thread.join(5)


def test_an_answer_must_prove_who_gave_it(server: Server, munge_socket: str) -> None:
    distrusting = Client("127.0.0.1", server.port, munge_socket=munge_socket, trusted_uids=[4242])  # type: ignore[attr-defined]
    with pytest.raises(NotAllowed, match="proof"):
        distrusting.call("echo", {})


def test_a_server_whose_munged_is_away_is_as_one_that_does_not_answer(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_munge_socket", "/nonexistent/munge.socket")
    with pytest.raises(EnvironmentFault, match="cannot prove who it is: is munged running there"):
        client.call("echo", {})
    monkeypatch.undo()
    assert client.call("echo", {"a": 1})["body"] == {"a": 1}


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """Somebody who gives one caller this answer, whatever is asked; the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("status", [200, 403, 404, 500])
def test_nothing_is_believed_of_an_answer_without_proof(munge_socket: str, status: int) -> None:
    body = json.dumps({"error": "no service 42", "kind": "user", "phase": "gone"}).encode()
    answer = f"HTTP/1.1 {status} Well\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    with answering(answer) as port, pytest.raises(EnvironmentFault) as caught:
        Client("127.0.0.1", port, munge_socket=munge_socket).call("status", {"sid": "42"}, timeout=5)
    assert caught.value.text == (
        f"127.0.0.1:{port} cannot prove who it is: is munged running there? If it is, another program listens on "
        "that port"
    )


def test_a_proof_of_another_answer_is_refused(munge_socket: str) -> None:
    body = b'{"phase":"gone"}'
    proof = munge.encode(reply_payload("another", 200, body), munge_socket)
    answer = f"HTTP/1.1 200 OK\r\nX-Ebb-Munge: {proof}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    with answering(answer) as port:
        client = Client("127.0.0.1", port, munge_socket=munge_socket, trusted_uids=[os.getuid()])
        with pytest.raises(NotAllowed, match="does not fit"):
            client.call("status", {"sid": "42"}, timeout=5)


def test_pages_are_open(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)  # type: ignore[attr-defined]
    connection.request("GET", "/metrics")
    assert connection.getresponse().read() == b"up 1\n"


def _half_requests(port: int, count: int) -> list[socket.socket]:
    made = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(count)]
    for each in made:
        each.sendall(b"POST /v1/echo HTTP/1.1\r\nContent-Length: 9\r\n")
    return made


def test_clients_that_never_finish_their_request_block_nobody(server: Server, client: Client) -> None:
    held = _half_requests(server.port, 300)  # type: ignore[attr-defined]
    try:
        assert client.call("echo", {"a": 1}, timeout=5)["body"] == {"a": 1}
    finally:
        for each in held:
            each.close()


def test_a_request_that_drips_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "REQUEST_SECONDS", 0.2)
    server._server.adj.cleanup_interval = 0
    server._server.next_channel_cleanup = 0
    (held,) = _half_requests(server.port, 1)  # type: ignore[attr-defined]
    deadline = time.monotonic() + 10
    with held, pytest.raises(OSError):
        while time.monotonic() < deadline:
            held.sendall(b"x")
            time.sleep(0.05)


@pytest.mark.parametrize("limit", ["MOST_OF_ONE_ADDRESS", "MOST_CONNECTIONS"])
def test_at_the_limit_the_oldest_connection_without_a_request_makes_room(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(http_server, limit, 3)
    held = _half_requests(server.port, 4)  # type: ignore[attr-defined]
    try:
        held[0].settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert held[0].recv(1) == b""
        assert client.call("echo", {"a": 1}, timeout=5)["body"] == {"a": 1}
        held[3].setblocking(False)
        with pytest.raises(BlockingIOError):
            held[3].recv(1)  # the newest is still there
    finally:
        for each in held:
            each.close()


def test_a_request_that_is_answered_is_not_cut_off_for_another(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that there is room for are at work: the next one must wait its turn outside."""
    monkeypatch.setattr(http_server, "MOST_OF_ONE_ADDRESS", 1)
    answers: list[object] = []
    working = threading.Thread(target=lambda: answers.append(client.call("slow", {}, timeout=10)))
    working.start()
    assert SLOW_BEGAN.wait(5)
    (late,) = _half_requests(server.port, 1)  # type: ignore[attr-defined]
    with late, contextlib.suppress(ConnectionResetError):
        assert late.recv(1) == b""
    SLOW_MAY_END.set()
    working.join(10)
    assert len(answers) == 1


def test_a_page_is_not_made_anew_for_everybody_who_asks(server: Server) -> None:
    def get() -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)  # type: ignore[attr-defined]
        connection.request("GET", "/count")
        body = connection.getresponse().read()
        connection.close()
        return body

    assert len({get() for _ in range(20)}) <= 3, "20 requests take far less than two seconds"


@pytest.mark.parametrize("drop", [b"H", b"x"], ids=["headers", "body"])
def test_a_server_that_drips_its_answer_is_given_up(munge_socket: str, drop: bytes) -> None:
    """Somebody else may sit on the port of a daemon that is down."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                if drop == b"x":
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
                while True:
                    connection.sendall(drop)
                    time.sleep(0.05)

        threading.Thread(target=serve, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(EnvironmentFault, match="did not answer"):
            Client("127.0.0.1", listener.getsockname()[1], munge_socket=munge_socket).call("echo", {}, timeout=0.5)
        assert time.monotonic() - began < 5
