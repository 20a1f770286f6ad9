"""The hooks' socket under users who mean no good: floods, lines that never end, other people's verbs."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import hooks
from orchestrator.hooks import GUEST_CONNECTIONS, Call, Hook, HookServer

NOBODY = os.getuid() + 1


def _seen(call: Call) -> dict[str, Any]:
    return {"uid": call.uid}


@pytest.fixture()
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A socket whose hooks are this process's uid, or another's with `indirect` parametrization."""
    privileged = getattr(request, "param", os.getuid())
    path = tmp_path / "orchestrator.sock"
    server = HookServer(path, {"setup": Hook(_seen), "list": Hook(_seen, open=True)}, frozenset({privileged}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield path
    server.shutdown()
    server.server_close()


def connect(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(10)
    made.connect(str(path))
    return made


def ask(path: Path, line: bytes) -> dict[str, Any]:
    with connect(path) as stream, stream.makefile("rb") as replies:
        stream.sendall(line + b"\n")
        answer: dict[str, Any] = json.loads(replies.readline())
        return answer


@pytest.mark.parametrize("served", [NOBODY], indirect=True)
def test_a_user_may_call_no_hook(served: Path) -> None:
    assert "may not call it" in ask(served, b'{"verb":"setup"}')["message"]
    assert ask(served, b'{"verb":"list"}')["ok"] is True


@pytest.mark.parametrize("served", [NOBODY], indirect=True)
def test_a_user_who_floods_the_socket_is_cut_off(served: Path) -> None:
    held = [connect(served) for _ in range(GUEST_CONNECTIONS)]
    for each in held:
        each.sendall(b"{")  # served: they hold their threads
    try:
        with connect(served) as one_more:
            assert "too many connections" in json.loads(one_more.makefile("rb").readline())["message"]
    finally:
        for each in held:
            each.close()


def test_hooks_are_served_however_many_there_are(served: Path) -> None:
    held = [connect(served) for _ in range(3 * GUEST_CONNECTIONS)]
    try:
        assert ask(served, b'{"verb":"setup"}')["ok"] is True
    finally:
        for each in held:
            each.close()


def test_a_line_that_drips_ends_at_its_deadline(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "READ_SECONDS", 0.5)
    drops = threading.Event()
    with connect(served) as stream:

        def drip() -> None:
            while not drops.wait(0.1):
                try:
                    stream.sendall(b" ")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            with contextlib.suppress(ConnectionResetError):  # drops that nobody read
                assert stream.recv(1) == b""
        finally:
            drops.set()
            dripping.join()


@pytest.mark.parametrize("line", [b"[" * 100_000, b"{", b"7", b"\xff\xfe", b'{"verb":' + b"9" * 5000 + b"}"])
def test_nonsense_gets_one_line(served: Path, line: bytes) -> None:
    answer = ask(served, line)
    assert answer["ok"] is False and len(answer["message"]) < 300


def test_no_user_writes_lines_of_our_log(served: Path, caplog: pytest.LogCaptureFixture) -> None:
    forged = json.dumps({"verb": "x\nroot did it", "request_id": "1\nroot did it"}).encode()
    assert ask(served, forged)["ok"] is False
    assert caplog.records and not any("\nroot did it" in record.getMessage() for record in caplog.records)
