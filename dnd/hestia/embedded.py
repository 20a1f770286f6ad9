"""An object store in a folder, for sites and tests without Hestia: a tier is a directory, an object a file in it.

    <folder>/objects/<id>.json      that it exists: {"name": ..., "created": ...}
    <folder>/tier<n>/<xx>/<id>      its data on tier n; xx spreads them over 256 directories
    <folder>/tier<n>/<xx>/<id>.<random or `filling`>.partial

Data are written aside, synced and renamed: an object is there in full or not at all. All of it belongs to root.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from dnd.hestia.store import TIER, Body, Filling, NoObject, StoreFault
from ebb.durable import sync_folder
from ebb.errors import Conflict, UserError
from ebb.object_reader import embedded_data
from ebb.objectpair import checked_id

_PIECE = 4 << 20


class EmbeddedStore:
    """The `ObjectStore` below `folder`. Several datanodes may share it over a file system that they all see."""

    def __init__(self, folder: Path, tiers: int = 1) -> None:
        self._folder, self._tiers = folder, tiers

    def check(self) -> None:
        """The folder is there and can be written. It is not made: where it should be mounted it may be missing."""
        if not self._folder.is_dir():
            raise StoreFault(f"object store {self._folder} is no directory on this datanode: mount it, or make it")
        with self._faults("be used"):
            self._folder.chmod(0o700)
            for name in ("objects", *(f"tier{tier}" for tier in range(self._tiers))):
                (self._folder / name).mkdir(exist_ok=True)
            if not os.access(self._folder / "objects", os.W_OK):
                raise StoreFault(f"object store {self._folder} is read-only")

    def create(self, object_id: str, name: str) -> None:
        """See ObjectStore."""
        self.check()
        with self._faults("make an object"):
            text = json.dumps({"name": name, "created": int(time.time())})
            self._write_aside(self._record(object_id), lambda: iter([text.encode()]))

    def put(self, object_id: str, size: int, body: Body) -> None:
        """See ObjectStore."""
        self._known(object_id)
        with self._faults("take an object"):
            if self._write_aside(self._data(object_id, TIER), body, size) != size:
                raise StoreFault(f"object {object_id}: {size} bytes were announced, another number came")

    def get(self, object_id: str, offset: int = 0) -> Iterator[bytes]:
        """See ObjectStore. The fastest tier that has the data gives them."""
        with self._faults("give an object"), open(self.local(object_id), "rb", buffering=0) as file:
            file.seek(offset)
            while piece := file.read(_PIECE):
                yield piece

    def local(self, object_id: str) -> int:
        """See ObjectStore. The fastest tier that has the data gives them."""
        with self._faults("give an object"):
            try:
                tier = self.locate(object_id)[0]
            except IndexError:
                raise NoObject(f"object {object_id} has no data on any tier") from None
            return os.open(self._data(object_id, tier), os.O_RDONLY | os.O_CLOEXEC)

    def fill(self, object_id: str) -> Filling:
        """See ObjectStore."""
        self._known(object_id)
        path = self._data(object_id, TIER)
        aside = path.with_name(f"{path.name}.filling.partial")
        with self._faults("take an object"):
            path.parent.mkdir(exist_ok=True)
            descriptor = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

        def finish() -> None:
            os.fsync(descriptor)
            os.replace(aside, path)
            sync_folder(path.parent)

        return Filling(descriptor, finish)

    def exists(self, object_id: str) -> bool:
        """See ObjectStore."""
        return self._record(object_id).exists()

    def list(self) -> list[str]:
        """See ObjectStore."""
        return sorted(path.stem for path in (self._folder / "objects").glob("*.json"))

    def locate(self, object_id: str) -> tuple[int, ...]:
        """See ObjectStore."""
        self._known(object_id)
        return tuple(tier for tier in range(self._tiers) if self._data(object_id, tier).exists())

    def copy(self, object_id: str, source: int, target: int) -> None:
        """See ObjectStore."""
        self._known(object_id)
        origin = self._data(object_id, source)
        if not origin.exists():
            raise NoObject(f"object {object_id} has no data on tier {source}")

        def body() -> Iterator[bytes]:
            with origin.open("rb") as file:
                while piece := file.read(_PIECE):
                    yield piece

        with self._faults("copy an object"):
            self._write_aside(self._data(object_id, target), body, origin.stat().st_size)

    def move(self, object_id: str, source: int, target: int) -> None:
        """See ObjectStore."""
        if source == target:
            return
        if not self._data(object_id, source).exists() and self._data(object_id, target).exists():
            return  # moved before
        self.copy(object_id, source, target)
        self.release(object_id, source)

    def release(self, object_id: str, tier: int) -> None:
        """See ObjectStore."""
        with self._faults("release an object"):
            path = self._data(object_id, tier)
            for left in path.parent.glob(f"{path.name}.*.partial"):
                left.unlink(missing_ok=True)
            path.unlink(missing_ok=True)

    def delete(self, object_id: str) -> None:
        """See ObjectStore."""
        if not self.exists(object_id):
            return
        if tiers := self.locate(object_id):
            raise Conflict(f"object {object_id} still has data on tier {tiers[0]}: release them first")
        with self._faults("delete an object"):
            for tier in range(self._tiers):
                self.release(object_id, tier)  # what a put that was cut off left aside
            self._record(object_id).unlink(missing_ok=True)

    def space(self) -> int:
        """Bytes that are free for new objects."""
        return shutil.disk_usage(self._folder).free

    def _record(self, object_id: str) -> Path:
        return self._folder / "objects" / f"{checked_id(object_id)}.json"

    def _data(self, object_id: str, tier: int) -> Path:
        if not 0 <= tier < self._tiers:
            raise UserError(f"tier {tier}: this store has tiers 0 to {self._tiers - 1}")
        return embedded_data(self._folder, tier, object_id)

    def _known(self, object_id: str) -> None:
        if not self.exists(object_id):
            raise NoObject(f"object {object_id} is not in the object store {self._folder}")

    def _write_aside(self, path: Path, body: Body, size: int | None = None) -> int:
        """Returns how many bytes were written; with another `size`, nothing is put in place."""
        path.parent.mkdir(exist_ok=True)
        aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        done = 0
        try:
            with aside.open("xb") as file:
                os.fchmod(file.fileno(), 0o600)
                for piece in body():
                    file.write(piece)
                    done += len(piece)
                file.flush()
                os.fsync(file.fileno())
            if size in (None, done):
                os.replace(aside, path)
                sync_folder(path.parent)
        finally:
            aside.unlink(missing_ok=True)
        return done

    @contextlib.contextmanager
    def _faults(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreFault(f"object store {self._folder} cannot {what}: {error.strerror}") from error
