"""Images packed into one object by several threads: in order, without gaps; a chunk that fails keeps nobody waiting."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnd.hestia.packing import PackedTarget, whole_prefix
from dnd.staging.copy import chunks, copy_chunks
from dnd.staging.ends import FileSource
from dnd.staging.progress import Tracker
from ebb.extents import Extents

MIB = 1 << 20
CHUNK_SIZES = st.sampled_from([MIB, 8 * MIB])
"""One that is read at once, and one that is not."""
images = st.lists(st.booleans(), min_size=1, max_size=24)


class Failing:
    """A `Source` in which one chunk cannot be read."""

    in_order = False

    def __init__(self, source: FileSource, begin: int, stop: int) -> None:
        self._source, self._begin, self._stop = source, begin, stop

    def extents(self, size: int) -> Extents:
        return self._source.extents(size)

    def read(self, view: memoryview, offset: int) -> None:
        if self._begin <= offset < self._stop:
            raise OSError(errno.EIO, "Input/output error")
        self._source.read(view, offset)


def an_image(path: Path, parts: list[bool], size: int) -> bytes:
    """A mebibyte of data, or a hole, for each part."""
    with path.open("wb") as file:
        file.truncate(size)
        for number, data in enumerate(parts):
            if data:
                file.seek(number * MIB)
                file.write(os.urandom(min(MIB, size - number * MIB)))
    return path.read_bytes()


def packed(image: bytes, chunk_size: int) -> bytes:
    pieces = [image[start : start + chunk_size] for start in range(0, len(image), chunk_size)]
    return b"".join(piece for piece in pieces if piece.strip(b"\0"))


def save(
    image: Path, target: Path, chunk_size: int, done: dict[int, bytes], failing: int | None = None
) -> dict[int, bytes]:
    """Digests of the chunks that arrived, those of an earlier try with them."""
    size, digests = image.stat().st_size, dict(done)
    pieces = chunks(size, chunk_size)
    with image.open("rb") as reader, target.open("r+b") as writer:
        source = FileSource(reader.fileno())
        end = PackedTarget(writer.fileno(), size, chunk_size, done)
        wanted = [chunk for chunk in pieces if chunk.index not in done]
        if failing is None:
            copy_chunks(source, end, wanted, Tracker(), lambda chunk, digest: digests.update({chunk.index: digest}))
            return digests
        bad = Failing(source, pieces[failing].start, pieces[failing].end)
        with pytest.raises(OSError, match="Input/output error"):
            copy_chunks(bad, end, wanted, Tracker(), lambda chunk, digest: digests.update({chunk.index: digest}))
        return digests


@given(parts=images, chunk_size=CHUNK_SIZES, cut=st.integers(0, MIB - 1))
@settings(max_examples=60)
def test_an_object_holds_the_chunks_that_are_not_zeros_one_behind_the_other(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bool], chunk_size: int, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("packed")
    image = an_image(folder / "image", parts, len(parts) * MIB - cut)
    (folder / "object").write_bytes(b"left by another try" * MIB)
    save(folder / "image", folder / "object", chunk_size, {})
    assert (folder / "object").read_bytes() == packed(image, chunk_size)


@given(parts=images, chunk_size=CHUNK_SIZES, data=st.data())
@settings(max_examples=60)
def test_a_chunk_that_cannot_be_read_ends_the_save_and_the_next_one_goes_on_before_it(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bool], chunk_size: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("packed")
    parts[-1] = True
    image = an_image(folder / "image", parts, len(parts) * MIB)
    (folder / "object").touch()
    used = sorted({number * MIB // chunk_size for number, has in enumerate(parts) if has})
    failing = data.draw(st.sampled_from(used))
    done = whole_prefix(save(folder / "image", folder / "object", chunk_size, {}, failing))
    assert len(done) <= failing
    assert len(save(folder / "image", folder / "object", chunk_size, done)) == len(chunks(len(image), chunk_size))
    assert (folder / "object").read_bytes() == packed(image, chunk_size)
