"""A database that does not answer, or keeps nothing, for a while: nothing is lost, forgotten or given away by it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from sqlalchemy.exc import OperationalError

from ebb.errors import NotFound
from ebb.model import Directive, Phase
from orchestrator import workers
from orchestrator.plan import needs_of
from orchestrator.records import Buffer, Job, JobStep
from orchestrator.store import Store, Transaction
from unit.orchestrator.conftest import GIB, UID, Inside, create, create_sbb, destroy, use

READY = {"state": "ready"}


class Database:
    """Stands before a store. away: nothing can be asked. full: all can be asked, no change is kept."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.away = self.full = False
        self.refused = 0

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        if self.away:
            self._refuse("server has gone away")
        with self._store.transaction() as tx:
            before = _changes(tx)
            yield tx
            if self.full and _changes(tx) > before:
                self._refuse("database or disk is full")

    def _refuse(self, why: str) -> None:
        self.refused += 1
        raise OperationalError("commit", {}, Exception(why))


def _changes(tx: Transaction) -> int:
    """How often SQLite changed a row over this connection."""
    return int(tx._db.connection.driver_connection.total_changes)  # type: ignore[union-attr]


@pytest.fixture()
def database(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> Database:
    monkeypatch.setattr(workers, "BACKOFF_SECONDS", (0.02,))
    made = Database(inside.store)
    monkeypatch.setattr(inside.engine, "_store", made)
    return made


def test_a_worker_outlives_a_database_that_is_away(inside: Inside, database: Database) -> None:
    inside.datanodes.hold.add(Phase.CREATING)
    inside.setup(1, create("toto"))
    inside.wait(lambda: inside.datanodes.services)
    database.away = True
    inside.wait(lambda: database.refused > 3, 5)
    inside.datanodes.hold.clear()
    database.away = False
    assert inside.data_in(1) == READY
    inside.wait(lambda: not inside.workers._running)


def test_a_buffer_that_was_not_kept_leaves_no_worker_behind(inside: Inside, database: Database) -> None:
    database.full = True
    with pytest.raises(OperationalError):
        inside.setup(1, create("toto"))
    database.full = False
    inside.wait(lambda: not inside.workers._running)
    inside.setup(2, create("other"))  # it may get the id that the first had
    assert inside.data_in(2) == READY


def test_a_script_with_an_error_leaves_the_queue_as_it_was(inside: Inside) -> None:
    inside.whole_job(1, create("a", 15 * GIB))
    inside.whole_job(2, create("b", 15 * GIB))
    inside.setup(3, create("c", 10 * GIB))
    with pytest.raises(NotFound, match="misspelt"):
        inside.setup(4, destroy("c"), use("misspelt"))
    inside.whole_job(5, destroy("a"))
    assert inside.data_in(3) == READY


def test_what_was_not_kept_takes_no_room(inside: Inside, database: Database) -> None:
    database.full = True
    for job in (1, 2, 3):
        with pytest.raises(OperationalError):
            inside.setup(job, create(f"x{job}", 15 * GIB))
    database.full = False
    assert (inside.used(), inside.shown("x1")) == (0, None)
    inside.setup(4, create("y", 15 * GIB))
    assert inside.data_in(4) == READY


def test_room_whose_release_was_not_kept_is_given_to_nobody(inside: Inside, database: Database) -> None:
    inside.whole_job(1, create("toto", 15 * GIB))
    with pytest.raises(OperationalError), inside.engine.change() as tx:
        buffer = tx.buffer_named("toto")
        assert buffer is not None
        inside.buffers.released(tx, buffer, "dn1")
        assert inside.used() == 0
        database.full = True
    assert inside.used() == 15 * GIB
    database.full = False
    inside.whole_job(2, create("one", 15 * GIB))
    inside.setup(3, create("two", 15 * GIB))
    assert inside.data_in(3, wait=0)["state"] == "wait"


def test_a_database_that_goes_away_is_read_again_before_the_next_decision(inside: Inside, database: Database) -> None:
    with pytest.raises(OperationalError), inside.engine.change() as tx:
        inside.placement.enqueue([_queued(inside, tx)])
        assert inside.placement.place()
        database.full = database.away = True
    assert inside.used() == 20 * GIB, "it could not be read again"
    with pytest.raises(OperationalError):
        inside.setup(1, create("a"))
    database.full = database.away = False
    inside.whole_job(2, create("b", 20 * GIB))
    inside.whole_job(3, create("c", 20 * GIB))
    assert inside.used() == 40 * GIB


def _queued(inside: Inside, tx: Transaction) -> Buffer:
    job = Job(9, UID, UID, "alice", JobStep.SET_UP, False, 0.0, "[]")
    directive = Directive.from_wire(create("lost", 20 * GIB))
    return inside.buffers.create(tx, job, directive, False, needs_of(directive, inside.placement.flavors))


def test_an_error_that_touched_nothing_loads_nothing(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = list[object]()
    monkeypatch.setattr(inside.placement, "_load", loads.append)
    with pytest.raises(NotFound):
        inside.setup(1, use("misspelt"))
    inside.setup(2, create("toto"))
    assert inside.data_in(2) == READY
    assert loads == []


def test_a_datanode_that_came_while_nothing_was_kept_is_found_by_the_next_round(
    inside: Inside, database: Database
) -> None:
    inside.datanodes.down = {"dn1", "dn2"}
    inside.reconcile()
    inside.setup(1, create("toto"))
    inside.datanodes.down = {"dn2"}
    database.full = True
    with pytest.raises(OperationalError):
        inside.reconciler._with_datanodes()
    database.full = False
    inside.reconcile()
    assert inside.data_in(1) == READY


def test_what_a_server_said_while_nothing_was_kept_is_told_by_the_next_round(
    inside: Inside, database: Database
) -> None:
    inside.whole_job(1, create_sbb("fast"))
    inside.reconcile()
    inside.datanodes.report("dn1", "1", Phase.READY, "cannot drain /scratch/a/x: Disk quota exceeded")
    database.full = True
    with pytest.raises(OperationalError):
        inside.reconciler._with_datanodes()
    database.full = False
    inside.reconcile()
    inside.wait_reason("fast", "Disk quota exceeded")
