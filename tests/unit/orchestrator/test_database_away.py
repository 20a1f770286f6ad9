"""A database that does not answer, or keeps nothing, for a while: nothing is lost, forgotten or given away by it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from sqlalchemy.exc import OperationalError

from ebb.model import Phase
from orchestrator import workers
from orchestrator.store import Store, Transaction
from unit.orchestrator.conftest import Inside, create


class Database:
    """Stands before a store. away: nothing can be asked. full: all can be asked, nothing is kept."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.away = self.full = False
        self.refused = 0

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        if self.away:
            self._refuse("server has gone away")
        with self._store.transaction() as tx:
            yield tx
            if self.full:
                self._refuse("database or disk is full")

    def _refuse(self, why: str) -> None:
        self.refused += 1
        raise OperationalError("commit", {}, Exception(why))


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
    assert inside.data_in(1) == {"state": "ready"}
    inside.wait(lambda: not inside.workers._running)


def test_a_buffer_that_was_not_kept_leaves_no_worker_behind(inside: Inside, database: Database) -> None:
    database.full = True
    with pytest.raises(OperationalError):
        inside.setup(1, create("toto"))
    database.full = False
    inside.wait(lambda: not inside.workers._running)
    inside.setup(2, create("other"))  # it may get the id that the first had
    assert inside.data_in(2) == {"state": "ready"}
