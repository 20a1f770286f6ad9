"""An image as one object: the chunks that are not all zeros, in order, without gaps (docs/dataset-format.md).

Which chunks those are, and the digest of each, stands in the dataset's header.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence

from dnd.hestia.store import ObjectStore, StoreFault
from dnd.staging import ends
from dnd.staging.copy import BLOCK, Chunk, Look, chunks, read_chunks
from dnd.staging.ends import FileTarget, Source
from dnd.staging.progress import Tracker
from ebb.dataset import HOLE
from ebb.errors import UserError
from ebb.extents import Extents


class Damaged(UserError):
    """A chunk is not what its digest says. The text says which bytes of the image."""

    def __init__(self, chunk: Chunk) -> None:
        super().__init__(f"bytes {chunk.start} to {chunk.end - 1} of the image are not what was saved")


class Short(StoreFault):
    """The object ends before its time."""


class PackedSource:
    """A `Source`: the image that an object holds. `pieces`: the chunks that are in it.

    Where the store gives a stream it is read in order, by ranges where there are gaps.
    """

    def __init__(self, store: ObjectStore, object_id: str, pieces: Sequence[Chunk]) -> None:
        self._store, self._object = store, object_id
        self._pieces, self._starts = pieces, [chunk.start for chunk in pieces]
        self._places = _places(pieces)
        self._file = store.local(object_id) if pieces else None
        self._stream: Iterator[bytes] = iter(())
        self._position = -1
        self._rest = memoryview(b"")

    @property
    def in_order(self) -> bool:
        """Whether it is a stream."""
        return self._file is None

    def extents(self, size: int) -> Extents:
        """What the object holds. All of it is read, also what is zeros: a chunk is there in full."""
        return Extents.of((chunk.start, min(chunk.end, size)) for chunk in self._pieces if chunk.start < size)

    def read(self, view: memoryview, offset: int) -> None:
        """Raises Short if the object ends there, StoreFault if the store fails."""
        number = bisect_right(self._starts, offset) - 1
        place = self._places[number] + offset - self._pieces[number].start
        if self._file is None:
            self._take(view, place)
            return
        try:
            ends.FileSource(self._file).read(view, place)
        except ends.Truncated:
            raise Short(f"the object ends before byte {offset + len(view)} of the image") from None
        except OSError as error:
            raise StoreFault(f"object {self._object} cannot be read: {error.strerror}") from error

    def look(self, digests: Sequence[bytes]) -> Look:
        """How to read all of it for `read_chunks`, which raises Damaged for a chunk with another digest."""

        def check(chunk: Chunk, digest: bytes) -> None:
            if digest != digests[chunk.index]:
                raise Damaged(chunk)

        return Look(self, self._pieces, check)

    def check_end(self) -> None:
        """After all was read: nothing may be left. Raises StoreFault."""
        if self._file is None:
            longer = bool(self._rest) or any(self._stream)
        else:
            longer = os.fstat(self._file).st_size > size_of(self._pieces)
        if longer:
            raise StoreFault(f"object {self._object} is longer than what was saved")

    def close(self) -> None:
        """Called when nobody reads any more."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _take(self, view: memoryview, place: int) -> None:
        if place != self._position:
            self._stream, self._rest = self._store.get(self._object, place), memoryview(b"")
        done = 0
        while done < len(view):
            if not self._rest:
                piece = next(self._stream, None)
                if piece is None:
                    raise Short(f"the object ends at byte {place + done}")
                self._rest = memoryview(piece)
            count = min(len(self._rest), len(view) - done)
            view[done : done + count] = self._rest[:count]
            self._rest, done = self._rest[count:], done + count
        self._position = place + done


class PackedTarget:
    """A `Target` for a save: chunks are put one behind the other into an object's file.

    Threads read and write chunks side by side; only to learn where its chunk begins one waits until those before it
    have their places or were passed. The foremost never waits. Behind a chunk that could not be copied places are
    wrong: what is not a whole prefix counts for nothing, and the next try cuts it off.
    before: digests of the chunks that it has from an earlier try, all from the image's first on.
    """

    def __init__(self, descriptor: int, image_size: int, chunk_size: int, before: Mapping[int, bytes]) -> None:
        self._file = FileTarget(descriptor)
        self._chunks = chunks(image_size, chunk_size)
        self._chunk_size = chunk_size
        self._end = length_of(before, image_size, chunk_size)
        self._next = len(before)
        self._places: dict[int, int] = {}
        self._passed: set[int] = set()
        self._moved = threading.Condition()
        os.ftruncate(descriptor, self._end)

    def write(self, view: memoryview, offset: int) -> None:
        """A chunk that something is written of has a place; what nobody writes of it is a hole."""
        chunk = self._chunks[offset // self._chunk_size]
        place = self._places.get(chunk.index)
        if place is None:
            place = self._place(chunk)
        self._file.write(view, place + offset - chunk.start)

    def passed(self, chunk: int) -> None:
        """See Target. A chunk without a place needs none now."""
        with self._moved:
            if self._places.pop(chunk, None) is None:
                self._go_on(chunk)

    def _place(self, chunk: Chunk) -> int:
        with self._moved:
            self._moved.wait_for(lambda: self._next == chunk.index)
            place, end = self._end, self._end + chunk.length
            os.ftruncate(self._file.descriptor, end)
            self._places[chunk.index], self._end = place, end
            self._go_on(chunk.index)
        return place

    def _go_on(self, chunk: int) -> None:
        """This chunk keeps nobody waiting any more."""
        self._passed.add(chunk)
        while self._next in self._passed:
            self._passed.remove(self._next)
            self._next += 1
        self._moved.notify_all()

    def sync(self) -> None:
        """See Target."""
        self._file.sync()


def whole_prefix(done: Mapping[int, bytes]) -> dict[int, bytes]:
    """The chunks that were done one behind the other from the image's first on: what a packed object can go on from."""
    found: dict[int, bytes] = {}
    while (digest := done.get(len(found))) is not None:
        found[len(found)] = digest
    return found


def stored(image_size: int, chunk_size: int, digests: Sequence[bytes]) -> list[Chunk]:
    """The chunks that the data object holds, in its order."""
    return [chunk for chunk in chunks(image_size, chunk_size) if digests[chunk.index] != HOLE]


def size_of(pieces: Iterable[Chunk]) -> int:
    """How many bytes the data object has."""
    return sum(chunk.length for chunk in pieces)


def length_of(digests: Mapping[int, bytes], image_size: int, chunk_size: int) -> int:
    """How many bytes of a data object the chunks make whose digests these are, by their numbers."""
    return size_of(chunk for chunk in chunks(image_size, chunk_size) if digests.get(chunk.index, HOLE) != HOLE)


def digest_image(source: Source, image_size: int, chunk_size: int, tracker: Tracker) -> tuple[bytes, ...]:
    """Read the whole image, on several threads, for the digest of each chunk. Raises Cancelled, OSError, Truncated."""
    pieces = chunks(image_size, chunk_size)
    digests = [HOLE] * len(pieces)

    def note(chunk: Chunk, digest: bytes) -> None:
        digests[chunk.index] = digest

    read_chunks([Look(source, pieces, note)], tracker)
    return tuple(digests)


def check_object(
    store: ObjectStore, object_id: str, pieces: Sequence[Chunk], digests: Sequence[bytes], tracker: Tracker
) -> None:
    """Read a data object back. Raises Damaged for a chunk with another digest, Short, NoObject, StoreFault."""
    with contextlib.closing(PackedSource(store, object_id, pieces)) as source:
        read_chunks([source.look(digests)], tracker)
        source.check_end()


def packed(source: Source, pieces: Sequence[Chunk], tracker: Tracker) -> Iterator[memoryview]:
    """The data object's bytes, read from the image; each piece is good until the next is asked for.

    Raises Cancelled, OSError, Truncated.
    """
    if not pieces:
        return
    extents = source.extents(pieces[-1].end)
    # Aligned to a page, for volumes that are read past the page cache.
    block, zeros = memoryview(mmap.mmap(-1, BLOCK)), memoryview(bytes(BLOCK))
    for chunk in pieces:
        position = chunk.start
        for begin, stop in [*extents.within(chunk.start, chunk.end), (chunk.end, chunk.end)]:
            for at in range(position, begin, BLOCK):
                yield zeros[: min(BLOCK, begin - at)]
                _count(tracker, min(BLOCK, begin - at))
            for at in range(begin, stop, BLOCK):
                view = block[: min(BLOCK, stop - at)]
                source.read(view, at)
                yield view
                _count(tracker, len(view))
            position = stop


def _count(tracker: Tracker, count: int) -> None:
    tracker.advance(count)
    tracker.tick()


def _places(pieces: Iterable[Chunk]) -> list[int]:
    """Where in the object each chunk begins."""
    found, at = [], 0
    for chunk in pieces:
        found.append(at)
        at += chunk.length
    return found
