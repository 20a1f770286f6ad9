"""Copying chunks: any pattern of data and holes arrives as it was, holes stay holes, digests are those of the bytes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from dnd.staging.copy import Chunk, chunks, copy_chunks
from dnd.staging.ends import FileSource, FileTarget
from dnd.staging.progress import Cancelled, Tracker
from ebb.dataset import HOLE

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
