"""How far data has moved, for the status and the log, and the wish to stop, for the workers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ebb.model import Progress
from ebb.sizes import format_human

logger = logging.getLogger(__name__)

_TELL_SECONDS = 1.0
_LOG_SECONDS = 5.0
_WEIGHT = 0.4
"""Of the last second's rate in the one that is told: the time left should not jump about."""


class Cancelled(Exception):
    """The work was told to stop; nobody waits for its result."""


class Tracker:
    """Counts bytes over the copying threads. `changed` is called at most once a second, also while nothing moves.

    what: begins the log lines, such as `GBF 42 (toto): stage-out`.
    """

    def __init__(
        self, changed: Callable[[], None] = lambda: None, cancel: threading.Event | None = None, what: str = ""
    ) -> None:
        self._changed = changed
        self._cancel = cancel or threading.Event()
        self._given_up = False
        self._later: int | None = None
        self.what = what
        self._lock = threading.Lock()
        self._done = self._total = 0
        self._mark = (time.monotonic(), 0)
        self._logged = time.monotonic()
        self._rate = 0.0

    def announce(self, later: int) -> None:
        """The work has several parts, each with a `begin` of its own: they are counted as one, of which `later` bytes
        come after the first.
        """
        self._later = later

    def begin(self, total: int) -> None:
        """`total` bytes are going to move."""
        with self._lock:
            if self._later is None or self._total == 0:
                self._done, self._rate = 0, 0.0
                self._mark = (time.monotonic(), 0)
            self._total = self._done + total + (self._later or 0)
            self._later = None if self._later is None else 0
        self._changed()

    @property
    def cancelled(self) -> bool:
        """Whether the work shall stop."""
        return self._given_up or self._cancel.is_set()

    def give_up(self) -> None:
        """Nobody waits for this work any more, whatever becomes of the wish to stop: it is another's by then."""
        self._given_up = True

    def advance(self, count: int) -> None:
        """`count` bytes moved. Raises Cancelled when the work shall stop."""
        if self.cancelled:
            raise Cancelled
        with self._lock:
            self._done += count

    def tick(self) -> None:
        """Called about every second while a copy runs, also if nothing moves: tell how far it is."""
        now = time.monotonic()
        with self._lock:
            then, before = self._mark
            if now - then < _TELL_SECONDS:
                return
            fresh = (self._done - before) / (now - then)
            self._rate = fresh if before == 0 else (1 - _WEIGHT) * self._rate + _WEIGHT * fresh
            self._mark = (now, self._done)
            done, total, rate = self._done, self._total, self._rate
        self._changed()
        if self.what and total and now - self._logged >= _LOG_SECONDS:
            self._logged = now
            logger.info(
                "%s %d%% of %s at %s/s", self.what, 100 * done // total, format_human(total), format_human(int(rate))
            )

    def snapshot(self) -> Progress | None:
        """What the status shows; None before `begin`."""
        with self._lock:
            return Progress(self._done, self._total, self._rate) if self._total else None
