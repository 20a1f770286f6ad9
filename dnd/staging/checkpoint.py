"""What a copy that was cut short need not do again: which chunks are surely at their target, in a small file of ours.

First line: what was copied whence whither, as JSON; it must be the same for the copy to go on. Then a line for each
chunk that was written and synced: its number and digest. A line that was cut short does not count.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from dnd.staging.ends import Target
from ebb.dataset import DIGEST_SIZE
from ebb.durable import sync_folder
from ebb.errors import EbbError

SECONDS = 2.0
"""At most the work of so many seconds, and of one sync, is done again."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A copy that was begun: its first line, and digest by chunk of what is done."""

    identity: dict[str, Any]
    done: dict[int, bytes]


class Checkpoints:
    """The file of one copy. Only one thread at a time uses it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._planned: Callable[[], dict[str, Any]] | None = None

    @property
    def path(self) -> Path:
        """It is there from the first note until `forget`."""
        return self._path

    def load(self) -> Saved | None:
        """What an earlier try left; None if there was none, or if it cannot be read."""
        try:
            text = self._path.read_text()
            first, *lines = text.split("\n")[:-1]
            identity = json.loads(first)
        except (OSError, ValueError):
            return None
        done = {}
        for line in lines:
            number, _, digest = line.partition(" ")
            with contextlib.suppress(ValueError):
                raw = bytes.fromhex(digest)
                if len(raw) == DIGEST_SIZE:
                    done[int(number)] = raw
        return Saved(identity, done) if isinstance(identity, dict) else None

    def plan(self, identity: Callable[[], dict[str, Any]]) -> None:
        """`begin` with the first `add`: a copy that is done before has nothing to go on from.

        identity: called then, if at all, for it may cost time.
        """
        self._planned = identity

    def begin(self, identity: dict[str, Any], done: Iterable[tuple[int, bytes]] = ()) -> None:
        """These chunks and no others are at the target; on disk when this returns, or all is as it was."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside = self._path.with_name(self._path.name + ".new")
        with aside.open("w") as file:
            file.write(json.dumps(identity) + "\n" + _lines(done))
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, self._path)
        sync_folder(self._path.parent)

    def add(self, done: Iterable[tuple[int, bytes]]) -> None:
        """These chunks are surely at the target; on disk when this returns."""
        if self._planned is not None:
            self.begin(self._planned())
            self._planned = None
        with self._path.open("a") as file:
            file.write(_lines(done))
            file.flush()
            os.fsync(file.fileno())

    def forget(self) -> None:
        """The copy is complete, or its target is gone. No error if nothing was begun."""
        self._path.unlink(missing_ok=True)


def _lines(done: Iterable[tuple[int, bytes]]) -> str:
    return "".join(f"{number} {digest.hex()}\n" for number, digest in done)


class Keeper:
    """While a copy runs: syncs its target now and then, and writes down what was copied before.

    A sync that failed ends the copy: the kernel tells a lost write only once, so nothing after it could be believed.
    """

    def __init__(self, checkpoints: Checkpoints, target: Target) -> None:
        self._checkpoints, self._target = checkpoints, target
        self._fresh: list[tuple[int, bytes]] = []
        self._lock = threading.Lock()
        self._failure: OSError | EbbError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)

    def note(self, number: int, digest: bytes) -> None:
        """A chunk was written. Called by the copying threads. Raises what a sync raised meanwhile."""
        if self._failure is not None:
            raise self._failure
        with self._lock:
            self._fresh.append((number, digest))

    def __enter__(self) -> Keeper:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._failure is None and kind is not None:
            # A failed or cancelled copy: the next try goes on from here. One that is complete is synced by the caller.
            self._attempt()
        if kind is None and self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while self._failure is None and not self._stop.wait(SECONDS):
            self._attempt()

    def _attempt(self) -> None:
        with self._lock:
            fresh, self._fresh = self._fresh, []
        try:
            if fresh:
                self._target.sync()
                self._checkpoints.add(fresh)
        except (OSError, EbbError) as failure:
            self._failure = failure
