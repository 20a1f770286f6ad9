"""What moves right now: told by the workers, read for /metrics. Not in the store: after a restart they ask anew."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ebb.model import Progress


@dataclass(frozen=True, slots=True)
class Move:
    """Data of one buffer on one datanode. direction: `stage-in` or `stage-out`."""

    sid: str
    datanode: str
    direction: str


class Moving:
    """Shared by all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._moves: dict[Move, Progress] = {}

    @contextmanager
    def watched(self, move: Move) -> Iterator[None]:
        """While a worker waits for a datanode; afterwards nothing of it is shown."""
        try:
            yield
        finally:
            with self._lock:
                self._moves.pop(move, None)

    def note(self, move: Move, progress: Progress) -> None:
        """How far it is."""
        with self._lock:
            self._moves[move] = progress

    def of(self, sid: str, direction: str) -> dict[str, Progress]:
        """What moves of one buffer, by datanode."""
        with self._lock:
            found = {m.datanode: p for m, p in self._moves.items() if (m.sid, m.direction) == (sid, direction)}
        return dict(sorted(found.items()))

    def now(self) -> list[tuple[Move, Progress]]:
        """All that moves."""
        with self._lock:
            return list(self._moves.items())
