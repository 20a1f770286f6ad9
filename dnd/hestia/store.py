"""What an object store does for us: one interface, two backends (dnd/hestia/api.py, dnd/hestia/embedded.py)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from dnd.staging.progress import Cancelled
from ebb.errors import EnvironmentFault, NotFound

Body = Callable[[], Iterator[bytes | memoryview]]
"""Gives an object's bytes from the beginning, each time it is called: a redirect or a second try sends them again."""

TIER = 0
"""New objects are put here."""


class NoObject(NotFound):
    """The store has no object, or no data, of that id."""


class StoreFault(EnvironmentFault):
    """The store does not answer, or answers with an error, and went on doing so for as long as it may."""


@dataclass(frozen=True, slots=True)
class Filling:
    """An object's data while they are written to a file. descriptor: read and write; an earlier try's bytes are in it.

    finish: called when all is written; from then on the object has them. Raises OSError.
    """

    descriptor: int
    finish: Callable[[], None]


class ObjectStore(Protocol):
    """One store. Objects are made once under an id of our choosing, filled once and never changed.

    Every method may be repeated: done twice is done once. All raise StoreFault when the store fails for longer than its
    patience, Cancelled when the work is no longer wanted. Used by one thread at a time.
    """

    def check(self) -> None:
        """Whether the store answers at all; called before a buffer is made whose data shall go there."""

    def create(self, object_id: str, name: str) -> None:
        """Make an empty object. name: for people."""

    def put(self, object_id: str, size: int, body: Body) -> None:
        """Fill an object with `size` bytes. When it returns, the data may still be on their way: read them back."""

    def get(self, object_id: str, offset: int = 0) -> Iterator[bytes]:
        """Its bytes from `offset` to the end, in pieces. A connection that breaks is taken up where it broke.

        Raises NoObject, at the first piece, if there is none or it has no data.
        """

    def local(self, object_id: str) -> int | None:
        """A descriptor of its data where they are in a file that this node sees; None: `get` gives them.

        The caller closes it. Raises NoObject.
        """

    def fill(self, object_id: str) -> Filling | None:
        """Write its data to a file that this node sees, in any order; None: `put` takes them. The caller closes it."""

    def exists(self, object_id: str) -> bool:
        """Whether an object of this id was created and not deleted."""

    def list(self) -> list[str]:
        """The ids of all objects."""

    def locate(self, object_id: str) -> tuple[int, ...]:
        """The tiers that hold its data. Raises NoObject."""

    def copy(self, object_id: str, source: int, target: int) -> None:
        """Copy its data from one tier to another. Raises NoObject if the source tier does not have them."""

    def move(self, object_id: str, source: int, target: int) -> None:
        """Copy, then drop from the source tier."""

    def release(self, object_id: str, tier: int) -> None:
        """Drop its data from one tier; no error if that has none."""

    def delete(self, object_id: str) -> None:
        """Forget an object whose data are released; no error if it is gone. Raises Conflict while a tier has data."""


def remove(store: ObjectStore, object_id: str) -> None:
    """Release an object's data on each tier, then delete it; no error if it is gone already."""
    with contextlib.suppress(NoObject):
        for tier in store.locate(object_id):
            store.release(object_id, tier)
        store.delete(object_id)


class Pauses:
    """Waits between tries that a cancelled work does not sit out."""

    def __init__(self, cancel: threading.Event | None = None) -> None:
        self._cancel = cancel or threading.Event()

    def __call__(self, seconds: float) -> None:
        """Wait. Raises Cancelled."""
        if self._cancel.wait(seconds):
            raise Cancelled
