"""One lock around every decision, one transaction for each, and word to all who wait when something changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from orchestrator.store import Store, Transaction

T = TypeVar("T")


class Engine:
    """Guards the store. The orchestrator is the only writer, so a lock in the process is enough.

    Nothing slow happens under the lock: no call to a datanode, no command.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changed = threading.Condition(threading.RLock())
        self._version = 0

    @contextmanager
    def change(self) -> Iterator[Transaction]:
        """A decision: kept whole, then everybody who waits looks again. Nothing is kept if it raises."""
        with self._changed:
            with self._store.transaction() as transaction:
                yield transaction
            self._version += 1
            self._changed.notify_all()

    @contextmanager
    def look(self) -> Iterator[Transaction]:
        """Reads that belong together."""
        with self._changed, self._store.transaction() as transaction:
            yield transaction

    def wait_for(self, check: Callable[[Transaction], T | None], seconds: float) -> T | None:
        """Call `check` now and after every change until it returns something, at most for `seconds`."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                with self._store.transaction() as transaction:
                    found = check(transaction)
                left = deadline - time.monotonic()
                if found is not None or left <= 0:
                    return found
                self._changed.wait(left)

    def wait_for_change(self, version: int, seconds: float) -> int:
        """Return as soon as the version differs from `version`, at the latest after `seconds`; the version then."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._version == version and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return self._version
