"""One service while the daemon runs: its record, who works on it, who waits for its next change."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from dnd.journal import Journal, Record
from dnd.staging.progress import Tracker
from ebb.model import Phase, Progress, Status


class NotYet(Exception):
    """Work cannot begin, or go on, before something else has ended. It is begun anew once `over()` is true, and holds
    no thread until then.

    over: called about every second, without the service's work lock, by one thread at a time. It must be quick: other
    services of that type wait for it.
    """

    def __init__(self, over: Callable[[], bool]) -> None:
        super().__init__()
        self.over = over


@dataclass(frozen=True, slots=True)
class Waiting:
    """Work that waits. request_id: of whom it is done for."""

    over: Callable[[], bool]
    phase: Phase
    request_id: str


class Work(Protocol):
    """What the services' create, save and release see of a service, or of one part of it.

    waits_since: since when it is not begun for the sake of others (monotonic seconds); None if it is.
    """

    deaths: list[float]
    waits_since: float | None

    @property
    def record(self) -> Record:
        """The record as it is now."""

    @property
    def cancel(self) -> threading.Event:
        """Set when the work under way is no longer wanted."""

    def update(self, *, only_in: Phase | None = None, **changes: Any) -> bool:
        """See Service."""

    def new_tracker(self, what: str = "") -> Tracker:
        """See Service."""


class Service:
    """Threads share it. `work` is held by whoever changes the system for it; the record has a lock of its own."""

    def __init__(self, record: Record, journal: Journal, describe: Callable[[Record, Progress | None], Status]) -> None:
        self.work = threading.Lock()
        self.cancel: threading.Event = threading.Event()
        self.deaths: list[float] = []
        self.waits_since: float | None = None
        self.waiting: Waiting | None = None
        # Whether a thread looks after it now: only the lifecycle's watch sets it.
        self.watched = False
        # Of a DASI: what must be known of each root while the daemon runs.
        self.roots: dict[int, Any] = {}
        # Whether the server may still have another client list than the record: after a failed or cut-short change.
        self.stale_clients = True
        self.tracker = Tracker(self._touch, self.cancel)
        self._record = record
        self._journal = journal
        self._describe = describe
        self._change = threading.Condition()

    @property
    def record(self) -> Record:
        """The record as it is now."""
        return self._record

    def update(self, *, only_in: Phase | None = None, **changes: Any) -> bool:
        """Write changes to the journal, then make them visible. With `only_in`, only if the phase still is that one:
        a destroy may have come in between. Returns whether they were made.
        """
        with self._change:
            if only_in is not None and self._record.phase is not only_in:
                return False
            record = self._record.changed(**changes)
            self._journal.write(record)
            self._record = record
            self._change.notify_all()
            return True

    def new_tracker(self, what: str = "") -> Tracker:
        """Begin to count anew: of a `stage-in` or a `stage-out`."""
        spec = self._record.spec
        self.tracker = Tracker(
            self._touch, self.cancel, f"{spec.type} {spec.sid} ({spec.name}): {what}" if what else ""
        )
        return self.tracker

    def status(self) -> Status:
        """What the verbs answer."""
        with self._change:
            return self._status()

    def wait(self, revision: int | None, seconds: float) -> Status:
        """The status as soon as its revision is not `revision`, or after `seconds`."""
        deadline = time.monotonic() + seconds
        with self._change:
            while self._record.revision == revision and (left := deadline - time.monotonic()) > 0:
                self._change.wait(left)
            return self._status()

    def _status(self) -> Status:
        moving = None if self._record.phase.settled else self.tracker.snapshot()
        return self._describe(self._record, moving)

    def _touch(self) -> None:
        # Progress is worth a new revision but no write to the journal: it is not needed after a crash.
        with self._change:
            self._record = self._record.changed()
            self._change.notify_all()
