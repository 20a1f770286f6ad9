"""One lock around every decision, one transaction for each, and word to all who wait when something changed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from orchestrator.store import Store, Transaction

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Memory(Protocol):
    """What decisions change in memory beside the store; it must come to say what the store says."""

    def kept(self) -> None:
        """The decision was kept, and all that it changed."""

    def reload(self, tx: Transaction) -> None:
        """The decision came to nothing: say again what the store says."""


class Engine:
    """Guards the store. The orchestrator is the only writer, so a lock in the process is enough.

    Nothing slow happens under the lock: no call to a datanode, no command.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changed = threading.Condition(threading.RLock())
        self._version = 0
        self._memory: Memory | None = None
        self._astray = False

    def follow(self, memory: Memory) -> None:
        """Keep `memory` and the store together from now on."""
        self._memory = memory

    @contextmanager
    def change(self) -> Iterator[Transaction]:
        """A decision: kept whole, then everybody who waits looks again. Nothing is kept if it raises."""
        with self._changed:
            self._mend()
            try:
                with self._store.transaction() as transaction:
                    yield transaction
            except BaseException:
                self._undo()
                raise
            if self._memory is not None:
                self._memory.kept()
            self._version += 1
            self._changed.notify_all()

    @contextmanager
    def look(self) -> Iterator[Transaction]:
        """Reads that belong together."""
        with self._changed:
            self._mend()
            with self._store.transaction() as transaction:
                yield transaction

    def wait_for(self, check: Callable[[Transaction], T | None], seconds: float) -> T | None:
        """Call `check` now and after every change until it returns something, at most for `seconds`."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                self._mend()
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

    def _undo(self) -> None:
        """After a decision that was not kept; at the latest, `_mend` does it before the next one."""
        self._astray = True
        try:
            self._mend()
        except Exception as error:
            logger.warning("what is allocated is read again before the next decision; not now: %s", error)

    def _mend(self) -> None:
        if self._astray and self._memory is not None:
            with self._store.transaction() as transaction:
                self._memory.reload(transaction)
        self._astray = False
