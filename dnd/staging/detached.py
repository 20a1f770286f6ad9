"""Calls on a file system that may hang: made in a thread of their own, so that whoever waits for them need not forever.

A thread that waits for a file system cannot be ended. One that is given up keeps what it has open until the file system
answers; then it finds that nobody wants its work, closes all and ends.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from dnd.staging.progress import Cancelled, Tracker
from ebb.errors import EnvironmentFault

logger = logging.getLogger(__name__)

T = TypeVar("T")
GRACE_SECONDS = 5.0
"""So long a copy that is no longer wanted may take to end by itself."""
_TICK_SECONDS = 0.25


def cancellable(work: Callable[[], T], tracker: Tracker) -> T:
    """Call `work`, however long it takes, but not much longer than it is wanted. It must close what it opens.

    Raises what `work` raises, and Cancelled when it was given up.
    """
    future, unwanted = _started(work), 0.0
    while not _ends(future, _TICK_SECONDS):
        tracker.tick()  # a last sync may take long
        if not tracker.cancelled:
            continue
        unwanted = unwanted or time.monotonic()
        if time.monotonic() - unwanted > GRACE_SECONDS:
            tracker.give_up()
            logger.warning("%s is given up: a file system does not answer", tracker.what or "a copy")
            raise Cancelled
    return future.result()


def bounded(work: Callable[[], T], seconds: float, what: str) -> T:
    """Call `work`, which should take no time. It must close what it opens.

    Raises what `work` raises, EnvironmentFault if it does not end within `seconds`.
    """
    future = _started(work)
    if not _ends(future, seconds):
        raise EnvironmentFault(f"{what}: its file system did not answer within {seconds:g} s")
    return future.result()


def _started(work: Callable[[], T]) -> Future[T]:
    future: Future[T] = Future()
    context = contextvars.copy_context()  # the request's id, for the log

    def run() -> None:
        try:
            future.set_result(context.run(work))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="detached", daemon=True).start()
    return future


def _ends(future: Future[T], seconds: float) -> bool:
    try:
        future.exception(seconds)
    except TimeoutError:
        return future.done()
    return True
