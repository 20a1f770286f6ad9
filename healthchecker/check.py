"""What a check is. It runs in a process of its own, so it may hang: its time limit ends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from healthchecker.service import Level, Result, Service


@dataclass(frozen=True, slots=True)
class Check:
    """One check. run: looks, and gives what it found amiss, nothing if all is well.

    modes: the service types it is for. hangs, late: what to say if it does not end within `seconds`, how bad that is.
    gone: it is for services that have ended, and looks for what they left.
    """

    name: str
    modes: frozenset[str]
    run: Callable[[Service], Iterable[Result]]
    hangs: str
    seconds: float = 10.0
    late: Level = Level.FAILED
    gone: bool = False
