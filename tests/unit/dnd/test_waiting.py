"""Work that must wait for others holds none of the daemon's threads, however much of it there is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dnd import lifecycle
from dnd.health import Flash, Health
from dnd.journal import Journal, Record
from dnd.lifecycle import Lifecycle
from dnd.ports import Numbers
from dnd.service import NotYet, Service
from ebb.model import Backend, Phase, Progress, ServiceSpec, ServiceType, Status
from ebb.run import run
from unit.dnd.nfs4 import wait_for

MANY = 50


class Held:
    """A kind of service whose data cannot be saved while `held`; the rest is done at once."""

    folder = "held"
    gathers = False

    def __init__(self) -> None:
        self.held = threading.Event()
        self.held.set()

    def refuse(self, spec: ServiceSpec) -> None:
        pass

    def saves(self, spec: ServiceSpec) -> bool:
        return spec.data_dst is not None

    def volume_name(self, spec: ServiceSpec) -> str:
        return spec.sid

    def describe(self, record: Record, moving: Progress | None) -> Status:
        spec = record.spec
        return Status(spec.sid, spec.type, spec.name, spec.uid, record.phase, record.revision, record.error)

    def flash(self, record: Record) -> list[Flash]:
        return []

    def create(self, service: Service) -> None:
        pass

    def save(self, service: Service) -> None:
        if self.held.is_set():
            raise NotYet(lambda: not self.held.is_set())

    def release(self, service: Service) -> None:
        pass

    def admit(self, service: Service) -> None:
        pass

    def resume(self, service: Service) -> None:
        pass

    def keep(self, service: Service) -> None:
        pass


def spec(sid: str, data_dst: str | None) -> ServiceSpec:
    return ServiceSpec(
        sid=sid, bbid=int(sid), type=ServiceType.GBF, name=f"b{sid}", user="nobody", uid=1, gid=1, storage_size=1,
        backend=Backend.FILE, volume_group="ebb", path="/mnt", data_src=None, data_dst=data_dst,
    )  # fmt: skip


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def services(tmp_path: Path, held: Held, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lifecycle]:
    monkeypatch.setattr(lifecycle, "WATCH_SECONDS", 0.02)
    numbers = Numbers(1000, 2000, lambda number, port: True)
    (tmp_path / "state").mkdir()
    found = Lifecycle(Journal(tmp_path / "services"), {ServiceType.GBF: held}, numbers, Health(tmp_path / "state", run))
    found.start()
    yield found
    found.close()


def phase(services: Lifecycle, sid: str) -> Phase:
    return services.status(sid, None, 0).phase


def test_more_waiting_saves_than_threads_stop_nobody(services: Lifecycle, held: Held) -> None:
    waiting = [str(number) for number in range(1, MANY + 1)]
    for sid in waiting:
        services.create_persistent(spec(sid, "/data"))
    wait_for(lambda: all(phase(services, sid) is Phase.READY for sid in waiting), 20, "all are made")
    for sid in waiting:
        services.destroy_persistent(sid, discard=False)
    services.create_persistent(spec("100", None))
    wait_for(lambda: phase(services, "100") is Phase.READY, 20, "another user's buffer is made meanwhile")
    services.destroy_persistent("100", discard=False)
    wait_for(lambda: phase(services, "100") is Phase.GONE, 20, "and freed")
    assert {phase(services, sid) for sid in waiting} == {Phase.SAVING}
    services.destroy_persistent("1", discard=True)
    wait_for(lambda: phase(services, "1") is Phase.GONE, 20, "one whose data are not wanted waits no longer")
    held.held.clear()
    wait_for(lambda: all(phase(services, sid) is Phase.GONE for sid in waiting), 20, "the others are saved and freed")
