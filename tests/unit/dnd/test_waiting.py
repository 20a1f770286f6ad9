"""Work that must wait for others holds none of the daemon's threads, however much of it there is; a service that takes
its time to be looked after holds up no other.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
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
        self.slow: set[str] = set()
        self.keeping: list[str] = []
        self.kept: Counter[str] = Counter()

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
        sid = service.record.spec.sid
        assert sid not in self.keeping, "one call at a time"
        self.kept[sid] += 1
        self.keeping.append(sid)
        while sid in self.slow:
            time.sleep(0.01)
        self.keeping.remove(sid)


def spec(sid: str, data_dst: str | None, kind: ServiceType = ServiceType.GBF) -> ServiceSpec:
    return ServiceSpec(
        sid=sid, bbid=int(sid), type=kind, name=f"b{sid}", user="nobody", uid=1, gid=1, storage_size=1,
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
    kinds = {ServiceType.GBF: held, ServiceType.DASI: held}
    found = Lifecycle(Journal(tmp_path / "services"), kinds, numbers, Health(tmp_path / "state", run))
    found.start()
    yield found
    held.slow.clear()
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


def test_slow_looks_after_some_hold_up_no_others(services: Lifecycle, held: Held) -> None:
    slow = [str(number) for number in range(1, lifecycle.KEEPERS)]
    held.slow.update(slow)
    for sid in slow:
        services.create_persistent(spec(sid, None))
    wait_for(lambda: set(slow) <= set(held.keeping), 20, "all of them are looked after")
    services.create_persistent(spec("100", None))
    wait_for(lambda: held.kept["100"] > 5, 20, "another one is looked after again and again")
    assert [held.kept[sid] for sid in slow] == [1] * len(slow)
    held.slow.clear()
    wait_for(lambda: all(held.kept[sid] > 1 for sid in slow), 20, "they are looked after again")


def test_slow_looks_after_all_of_one_type_hold_up_no_other_type(services: Lifecycle, held: Held) -> None:
    slow = [str(number) for number in range(1, 3 * lifecycle.KEEPERS)]
    held.slow.update(slow)
    for sid in slow:
        services.create_persistent(spec(sid, None))
    wait_for(lambda: len(held.keeping) == lifecycle.KEEPERS, 20, "as many as there are threads")
    services.create_persistent(spec("100", None, ServiceType.DASI))
    wait_for(lambda: held.kept["100"] > 5, 20, "one of another type is looked after")
    assert len(set(held.keeping) & set(slow)) == lifecycle.KEEPERS
    services.destroy_persistent("1", discard=True)
    held.slow.clear()
    wait_for(lambda: phase(services, "1") is Phase.GONE, 20, "what a look held up is done after it")
