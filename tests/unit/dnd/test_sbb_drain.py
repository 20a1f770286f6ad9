"""A drain is followed without a thread that waits for it, shows how far it is, and is given up when nobody wants it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dnd import lifecycle
from dnd.health import Health
from dnd.journal import Journal, Record
from dnd.lifecycle import Lifecycle
from dnd.ports import Numbers
from dnd.sbb import drain
from dnd.sbb.control import ServerStatus, Silent
from dnd.sbb.drain import Drain
from dnd.service import NotYet, Service
from ebb.errors import EnvironmentFault
from ebb.model import Phase, Progress, ServiceType, Status
from ebb.run import run
from unit.dnd.nfs4 import wait_for
from unit.dnd.test_waiting import Held, spec

MANY = 50


class Server:
    """What a test has a server answer."""

    def __init__(self) -> None:
        self.answer = ServerStatus("draining", 0, 1000)
        self.silent = threading.Event()
        self.asked: list[str] = []

    def ask(self, request: str) -> ServerStatus:
        """Called by drains."""
        self.asked.append(request)
        if self.silent.is_set():
            raise Silent("no answer")
        return self.answer


class Drained(Held):
    """A kind of service that is saved by draining."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.drains: dict[str, Drain] = {}

    def describe(self, record: Record, moving: Progress | None) -> Status:
        spec = record.spec
        return Status(
            spec.sid, spec.type, spec.name, spec.uid, record.phase, record.revision, record.error, progress=moving
        )

    def save(self, service: Service) -> None:
        sid = service.record.spec.sid
        self.drains.setdefault(sid, Drain(service, sid, self.server.ask)).follow()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def services(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lifecycle]:
    monkeypatch.setattr(lifecycle, "WATCH_SECONDS", 0.1)
    monkeypatch.setattr(drain, "_BRIEFLY_SECONDS", 0.05)
    numbers = Numbers(1000, 2000, lambda number, port: True)
    (tmp_path / "state").mkdir()
    kinds = {ServiceType.GBF: Drained(server)}
    found = Lifecycle(Journal(tmp_path / "services"), kinds, numbers, Health(tmp_path / "state", run))
    found.start()
    yield found
    found.close()


def status(services: Lifecycle, sid: str) -> Status:
    return services.status(sid, None, 0)


def begin(services: Lifecycle, *sids: str) -> None:
    """Make services and save them."""
    for sid in sids:
        services.create_persistent(spec(sid, "/data"))
    wait_for(lambda: all(status(services, sid).phase is Phase.READY for sid in sids), 20, "all are made")
    for sid in sids:
        services.destroy_persistent(sid, discard=False)


def test_drains_that_do_not_end_hold_up_nobody(services: Lifecycle, server: Server) -> None:
    sids = [str(number) for number in range(1, MANY + 1)]
    begin(services, *sids)
    services.create_persistent(spec("100", None))
    wait_for(lambda: status(services, "100").phase is Phase.READY, 20, "another user's buffer is made meanwhile")
    assert {status(services, sid).phase for sid in sids} == {Phase.SAVING}
    services.destroy_persistent("1", discard=True)
    wait_for(lambda: status(services, "1").phase is Phase.GONE, 5, "one that nobody wants any more ends at once")
    server.answer = ServerStatus("drained", 0, 0)
    wait_for(lambda: all(status(services, sid).phase is Phase.GONE for sid in sids), 20, "the others are drained")


def test_a_drain_shows_how_far_it_is_while_no_thread_waits(services: Lifecycle, server: Server) -> None:
    begin(services, "1")
    wait_for(lambda: status(services, "1").progress is not None, 5, "it begins")
    revision = status(services, "1").revision
    for dirty in (700, 400):
        server.answer = ServerStatus("draining", 0, dirty)
        begun = time.monotonic()
        wait_for(lambda done=1000 - dirty: getattr(status(services, "1").progress, "done", 0) == done, 5, "it shows")  # type: ignore[misc]
        found = services.status("1", revision, 5)
        assert found.revision != revision and time.monotonic() - begun < 5, "who waits for a change hears of it"
        revision = found.revision
    wait_for(lambda: getattr(status(services, "1").progress, "rate", 0) > 0, 5, "its rate is known")
    server.answer = ServerStatus("drained", 0, 0)
    wait_for(lambda: status(services, "1").phase is Phase.GONE, 5, "it is drained")


def test_clients_are_waited_for_and_named(services: Lifecycle, server: Server) -> None:
    server.answer = ServerStatus("running", 2, 1000)
    begin(services, "1")
    wait_for(lambda: status(services, "1").error == "waiting for 2 clients to let go", 5, "it waits")
    assert "drain" not in server.asked
    server.answer = ServerStatus("drained", 0, 0)
    wait_for(lambda: status(services, "1").phase is Phase.GONE, 5, "it is drained")
    assert "drain" in server.asked and status(services, "1").error is None


def test_a_server_that_says_nothing_for_long_has_failed(
    services: Lifecycle, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "_SILENT_SECONDS", 0.5)
    server.silent.set()
    begin(services, "1")
    wait_for(lambda: status(services, "1").phase is Phase.SAVE_FAILED, 5, "it is given up")
    assert status(services, "1").error == "no answer"


def test_what_cannot_be_drained_is_told_after_a_while(
    services: Lifecycle, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "_FAILING_SECONDS", 0.5)
    server.answer = ServerStatus("failed", 0, 1000, errors=("/t/x: full",))
    begin(services, "1")
    wait_for(lambda: status(services, "1").phase is Phase.SAVE_FAILED, 5, "it is given up")
    assert status(services, "1").error == "cannot drain /t/x: full"


def test_who_answers_slowly_is_asked_seldom(tmp_path: Path) -> None:
    """So that few threads are enough for many of them."""
    asked = []

    def ask(request: str) -> ServerStatus:
        asked.append(request)
        time.sleep(0.2)
        return ServerStatus("draining", 0, 1)

    record = Record(spec("1", None), 1, 1000, "", Phase.SAVING)
    service = Service(
        record, Journal(tmp_path), lambda record, moving: Status("1", ServiceType.SBB, "", 0, record.phase, 1, None)
    )
    followed = Drain(service, "1", ask)
    with pytest.raises(NotYet):
        followed.follow()
    before, begun = len(asked), time.monotonic()
    while time.monotonic() - begun < 2.6:
        followed.look()
        time.sleep(0.01)
    assert len(asked) - before <= 3


def test_a_fault_ends_it_at_once(tmp_path: Path) -> None:
    def ask(request: str) -> ServerStatus:
        raise EnvironmentFault("nobody there")

    record = Record(spec("1", None), 1, 1000, "", Phase.SAVING)
    service = Service(
        record, Journal(tmp_path), lambda record, moving: Status("1", ServiceType.SBB, "", 0, record.phase, 1, None)
    )
    with pytest.raises(EnvironmentFault, match="nobody there"):
        Drain(service, "1", ask).follow()
