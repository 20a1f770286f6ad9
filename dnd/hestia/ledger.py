"""Which objects dnd has made, or will drop, that no dataset file may name yet or any more: nothing leaks for ever.

One JSON file for each save, written before each step. What a crash, or a store that was away, left open is settled at
the next save, at the daemon's start and every minute after.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dnd.hestia import pair as pairs
from dnd.hestia.store import ObjectStore, remove
from ebb.as_user import AsUser
from ebb.durable import sync_folder
from ebb.errors import EbbError, UserError
from ebb.objectpair import Pair
from ebb.objectstore import ObjectStore as StoreSpec

logger = logging.getLogger(__name__)

WRITING, RENAMING, CLEANING = "writing", "renaming", "cleaning"
_SETTLE_PATIENCE = 10
_ASIDE = ".new"


@dataclass(frozen=True, slots=True)
class Entry:
    """One save of one dataset file. step: writing (the new objects are nobody's), renaming (the file may or may not
    name them), cleaning (it does: the old objects are to go).

    checkpoints: a file; as long as it is there, the save will go on with what it has put so far.
    """

    id: str
    store: StoreSpec
    uid: int
    gid: int
    file: str
    aside: str
    new: Pair
    old: Pair | None = None
    step: str = WRITING
    checkpoints: str = ""

    def to_json(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {**asdict(self), "store": self.store.to_wire()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Entry:
        """Raises KeyError, TypeError or EbbError if it is no entry."""
        old = Pair(**data["old"]) if data["old"] else None
        return cls(**{**data, "store": StoreSpec.from_wire(data["store"]), "new": Pair(**data["new"]), "old": old})


class Ledger:
    """The entries of one datanode, in `folder`, made once by its daemon. open_store: makes the client of a store."""

    def __init__(self, folder: Path, open_store: Callable[[StoreSpec], ObjectStore]) -> None:
        self._folder, self._open = folder, open_store
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._told: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        for unfinished in folder.glob(f"*{_ASIDE}"):  # of a daemon that was killed while it wrote: nothing was done yet
            unfinished.unlink()

    def begin(self, store: StoreSpec, user: AsUser, file: str, aside: str, checkpoints: str = "") -> Entry:
        """Choose ids for a new pair and write them down. Until `close`, nobody else settles this entry."""
        new = Pair(str(uuid.uuid4()), str(uuid.uuid4()))
        entry = Entry(uuid.uuid4().hex, store, user.uid, user.gid, file, aside, new, checkpoints=checkpoints)
        with self._lock:
            self._busy.add(entry.id)
        self._write(entry)
        return entry

    def resume(self, entry_id: str) -> Entry | None:
        """The entry of a save that was cut short while it wrote, to go on with until `close`; None if there is none."""
        with self._lock:
            try:
                entry = Entry.from_json(json.loads((self._folder / f"{Path(entry_id).name}.json").read_text()))
            except (EbbError, OSError, KeyError, TypeError, ValueError):
                return None
            if entry.step != WRITING or entry.id in self._busy:
                return None
            self._busy.add(entry.id)
        return entry

    def renaming(self, entry: Entry, old: Pair | None) -> Entry:
        """The new objects are whole, the file aside is written: it is about to take its place."""
        entry = replace(entry, step=RENAMING, old=old)
        self._write(entry)
        return entry

    def cleaning(self, entry: Entry) -> Entry:
        """The dataset file names the new objects."""
        entry = replace(entry, step=CLEANING)
        self._write(entry)
        return entry

    def close(self, entry: Entry) -> None:
        """The save has ended, well or not: settle it now if the store is there, else some time later."""
        with self._lock:
            self._busy.discard(entry.id)
        self._try(entry.id)

    def settle_all(self) -> None:
        """Settle what can be settled; called at the start, then every minute."""
        for path in sorted(self._folder.glob("*.json")):
            self._try(path.stem)

    def _try(self, entry_id: str) -> None:
        path = self._folder / f"{entry_id}.json"
        try:
            entry = self._claimed(path)
            if entry is None:
                return
            try:
                self._settle(entry)
            finally:
                with self._lock:
                    self._busy.discard(entry_id)
        except FileNotFoundError:
            return
        except (EbbError, OSError, KeyError, TypeError, ValueError) as error:
            if entry_id not in self._told:
                self._told.add(entry_id)
                logger.warning("objects of %s are dropped later: %s", path, error)
            return
        path.unlink(missing_ok=True)

    def _claimed(self, path: Path) -> Entry | None:
        """An entry that is to be settled, and busy until then; None if somebody is at it, or its save will go on.

        Decided in one step: a save that goes on may end while others look.
        """
        with self._lock:
            if path.stem in self._busy:
                return None
            entry = Entry.from_json(json.loads(path.read_text()))
            if entry.step == WRITING and entry.checkpoints and Path(entry.checkpoints).exists():
                return None
            self._busy.add(path.stem)
            return entry

    def _settle(self, entry: Entry) -> None:
        pairs_to_drop = self._dropped(entry)
        if not pairs_to_drop:
            return
        store = self._open(replace(entry.store, patience=min(entry.store.patience, _SETTLE_PATIENCE)))
        for drop in pairs_to_drop:
            # Data first: a header without data is found and dropped again, data without a header would be nobody's.
            for object_id in (drop.data, drop.header):
                remove(store, object_id)
            logger.info("dropped objects %s, %s, which %s does not name", drop.header, drop.data, entry.file)

    def _dropped(self, entry: Entry) -> list[Pair]:
        """The pairs that no file names. Raises EbbError if that cannot be told now."""
        if entry.step == WRITING:
            return [entry.new]
        old = [entry.old] if entry.old is not None else []
        if entry.step == CLEANING:
            return old
        user = AsUser(entry.uid, entry.gid)
        # Another save may be under way and have written its own file aside: what is in there tells.
        with contextlib.suppress(UserError):
            if pairs.read(user, entry.aside) == entry.new:
                user.remove(entry.aside)
                return [entry.new]
        try:
            named = pairs.read(user, entry.file)
        except UserError as error:
            raise UserError(f"whether the dataset was saved cannot be told: {error.text}") from error
        return [pair for pair in (entry.new, *old) if pair != named]

    def _write(self, entry: Entry) -> None:
        path = self._folder / f"{entry.id}.json"
        aside = path.with_suffix(_ASIDE)
        with aside.open("w") as file:
            json.dump(entry.to_json(), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync_folder(self._folder)
