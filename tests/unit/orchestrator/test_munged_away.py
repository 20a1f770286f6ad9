"""A datanode whose munged is away for a while, over the real wire: it is waited for as one that does not answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebb.http_server import Request, Server
from ebb.model import Backend, Datanode, ServiceSpec, VolumeGroup
from orchestrator import workers
from orchestrator.datanodes import Datanodes
from unit.orchestrator.conftest import GIB, Inside, create, use

READY = {"state": "ready"}


@pytest.fixture()
def wired(tmp_path: Path, munge_socket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Inside, Server]]:
    """An orchestrator that asks its one datanode over HTTP, and that datanode's server."""
    monkeypatch.setattr(workers, "BACKOFF_SECONDS", (0.05, 0.05))
    inside = Inside(tmp_path, nodes=1)
    made, asked = inside.datanodes.create_persistent, inside.datanodes.status

    def creates(request: Request) -> dict[str, Any]:
        spec = {key: value for key, value in request.body.items() if key != "healthchecker"}
        return made("dn1", ServiceSpec.from_wire(spec)).to_wire()

    def tells(request: Request) -> dict[str, Any]:
        return asked("dn1", request.body["sid"], request.body["revision"], request.body["wait"]).to_wire()

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    served = Server("127.0.0.1", port, {"create_persistent": creates, "status": tells}, munge_socket=munge_socket)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    node = Datanode("dn1", "127.0.0.1", port, GIB, 1, (VolumeGroup("vg0", GIB, Backend.FILE),))
    wire = Datanodes([node], munge_socket)
    monkeypatch.setattr(inside.datanodes, "create_persistent", wire.create_persistent)
    monkeypatch.setattr(inside.datanodes, "status", wire.status)
    yield inside, served
    inside.workers.stop()
    inside.store.close()
    served.close()
    thread.join(5)


def test_a_creation_waits_for_it(wired: tuple[Inside, Server], munge_socket: str) -> None:
    inside, served = wired
    served._munge_socket = "/nonexistent/munge.socket"
    inside.setup(1, create("toto"))
    inside.wait_reason("toto", "Waiting for datanode dn1 - ")
    inside.wait_reason("toto", "cannot prove who it is: is munged running there?")
    served._munge_socket = munge_socket
    assert inside.data_in(1) == READY


def test_a_job_waits_for_it(wired: tuple[Inside, Server], munge_socket: str) -> None:
    inside, served = wired
    inside.whole_job(1, create("toto"))
    served._munge_socket = "/nonexistent/munge.socket"
    inside.setup(2, use("toto"))
    reply = inside.data_in(2)
    assert reply["state"] == "wait" and "datanode dn1 does not answer" in reply["reason"]
    assert "cannot prove who it is: is munged running there?" in reply["reason"]
    served._munge_socket = munge_socket
    assert inside.data_in(2) == READY
