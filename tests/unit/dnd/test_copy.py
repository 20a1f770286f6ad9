"""Copying chunks: any pattern of data and holes arrives as it was, holes stay holes, digests are those of the bytes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from dnd.staging.copy import Chunk, Look, chunks, copy_chunks, read_chunks
from dnd.staging.ends import FileSource, FileTarget
from dnd.staging.progress import Cancelled, Tracker
from ebb.dataset import HOLE
from ebb.extents import Extents

MIB = 1 << 20
pieces = st.lists(st.tuples(st.integers(0, 6 * MIB), st.integers(1, 2 * MIB), st.booleans()), max_size=6)


def make(path: Path, size: int, parts: list[tuple[int, int, bool]], offset: int = 0) -> None:
    with path.open("wb") as file:
        file.truncate(offset + size)
        for start, length, zero in parts:
            room = min(length, max(0, size - start))
            file.seek(offset + start)
            file.write(bytes(room) if zero else os.urandom(room))


def copy(
    source: Path, target: Path, wanted: list[Chunk], offset: int = 0, tracker: Tracker | None = None
) -> dict[int, bytes]:
    digests: dict[int, bytes] = {}

    def check(chunk: Chunk, digest: bytes) -> None:
        digests[chunk.index] = digest

    with source.open("rb") as reader, target.open("r+b") as writer:
        source_end, target_end = FileSource(reader.fileno(), offset), FileTarget(writer.fileno())
        copy_chunks(source_end, target_end, wanted, tracker or Tracker(), check)
    return digests


@given(size=st.integers(1, 8 * MIB), parts=pieces, offset=st.sampled_from([0, MIB]))
@settings(max_examples=40)
def test_an_image_arrives_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, size: int, parts: list[tuple[int, int, bool]], offset: int
) -> None:
    folder = tmp_path_factory.mktemp("copy")
    source, target = folder / "source", folder / "target"
    make(source, size, parts, offset)
    make(target, size, [])
    digests = copy(source, target, chunks(size, MIB), offset)
    image = source.read_bytes()[offset:]
    assert target.read_bytes() == image
    for chunk in chunks(size, MIB):
        content = image[chunk.start : chunk.start + chunk.length]
        assert digests[chunk.index] == (blake3(content).digest() if content.strip(b"\0") else HOLE)
    source.unlink()
    target.unlink()


def test_zeros_take_no_room(tmp_path: Path) -> None:
    make(tmp_path / "source", 8 * MIB, [(0, 8 * MIB, True), (3 * MIB, 100, False)])
    make(tmp_path / "target", 8 * MIB, [])
    copy(tmp_path / "source", tmp_path / "target", chunks(8 * MIB, MIB))
    assert (tmp_path / "target").stat().st_blocks * 512 <= 128 << 10


def test_behind_the_end_of_a_source_is_a_hole(tmp_path: Path) -> None:
    make(tmp_path / "source", MIB, [(0, MIB, False)])
    make(tmp_path / "target", 2 * MIB, [])
    digests = copy(tmp_path / "source", tmp_path / "target", chunks(2 * MIB, MIB))
    assert digests[1] == HOLE, "behind its end a file reads as a hole, which no digest of data fits"


def test_it_stops_when_told(tmp_path: Path) -> None:
    make(tmp_path / "source", MIB, [(0, MIB, False)])
    make(tmp_path / "target", MIB, [])
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        copy(tmp_path / "source", tmp_path / "target", chunks(MIB, MIB), tracker=Tracker(cancel=cancel))


def test_progress_counts_the_data_that_moved(tmp_path: Path) -> None:
    make(tmp_path / "source", 8 * MIB, [(2 * MIB, MIB, False)])
    make(tmp_path / "target", 8 * MIB, [])
    tracker = Tracker()
    copy(tmp_path / "source", tmp_path / "target", chunks(8 * MIB, MIB), tracker=tracker)
    progress = tracker.snapshot()
    assert progress is not None and (progress.done, progress.total) == (MIB, MIB)


@dataclass
class Called:
    """A `Source`, the same mebibyte again and again, that calls what it is told before each read."""

    before: Callable[[], object] = lambda: None
    in_order: bool = False

    def __post_init__(self) -> None:
        self.content = os.urandom(MIB)
        self.readers: list[int] = []

    def extents(self, size: int) -> Extents:
        return Extents.whole(size)

    def read(self, view: memoryview, offset: int) -> None:
        self.readers.append(threading.get_ident())
        self.before()
        view[:] = self.content


def waits(event: threading.Event) -> Callable[[], object]:
    """To be called before a read that must not end before something else did."""
    return lambda: event.wait(30) or pytest.fail("the other source is not read meanwhile")


def noted(source: Called, count: int) -> tuple[Look, list[tuple[int, bytes]]]:
    """How to read `count` chunks of it, and what comes of that."""
    found: list[tuple[int, bytes]] = []
    return Look(source, chunks(count * MIB, MIB), lambda chunk, digest: found.append((chunk.index, digest))), found


def test_sources_are_read_side_by_side_and_counted_as_one() -> None:
    """Neither gets its first byte before the other is asked too."""
    meet = threading.Barrier(2)
    ends = [Called(lambda: meet.wait(30)) for _ in range(2)]
    looks = [noted(end, 1) for end in ends]
    tracker = Tracker()
    read_chunks([look for look, _ in looks], tracker)
    assert [found for _, found in looks] == [[(0, blake3(end.content).digest())] for end in ends]
    progress = tracker.snapshot()
    assert progress is not None and (progress.done, progress.total) == (2 * MIB, 2 * MIB)


def test_a_stream_beside_others_is_read_by_one_thread_in_order() -> None:
    """Also while its first read takes until all of the other source is read."""
    done = threading.Event()
    stream = Called(waits(done), in_order=True)
    look, found = noted(stream, 8)
    other = Look(Called(), chunks(MIB, MIB), lambda chunk, digest: done.set())
    read_chunks([look, other], Tracker())
    assert len(set(stream.readers)) == 1 and [index for index, _ in found] == list(range(8))


def test_what_one_look_finds_ends_the_others() -> None:
    """The other waits until it is found, and has many chunks left then."""
    found = threading.Event()

    class Seen(Tracker):
        def tick(self) -> None:
            found.set()

    def refuse(chunk: Chunk, digest: bytes) -> None:
        raise ValueError("another one")

    other = Called(waits(found))
    with pytest.raises(ValueError, match="another one"):
        read_chunks([Look(Called(), chunks(MIB, MIB), refuse), noted(other, 2000)[0]], Seen())
    assert len(other.readers) < 2000
