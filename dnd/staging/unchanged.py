"""Whether a dataset holds already what a volume holds: then a save need not write it again.

The digests in its sealed header prove it, chunk by chunk. Two things change whenever a file system is mounted and say
nothing of what is in it: its journal, which is empty when it is at rest, and in the superblocks its UUID, which a
stage-in may renew, and where the journal ends. They are left out: the few chunks with them are compared by bytes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from dnd.staging.copy import BLOCK, Chunk, Look, chunks, read_chunks
from dnd.staging.ends import FileSource, Source
from dnd.staging.image import Image, volume_source
from dnd.staging.progress import Tracker
from dnd.tools import xfs
from ebb.dataset import DatasetHeader, chunk_size_for
from ebb.extents import Extents

_LARGEST_CHUNK = 64 << 20
"""Images of about 2 TiB: with larger chunks too much would be compared byte by byte."""


class _Changed(Exception):
    """A chunk is another one."""


def is_same(
    old: Source, header: DatasetHeader, image: Image, used: Extents, tracker: Tracker, beside: Sequence[Look] = ()
) -> bool:
    """Whether a dataset, whose sealed header this is, holds the file system of an unmounted volume. Called by a save.

    old: its image, believed to be what the header says, of which few bytes are read. used: where the volume holds
    something. beside: what is read at the same time, all of it before True is returned. A volume that was changed is
    mostly told by its first 512 bytes. Raises Cancelled, OSError, and what `old` and `beside` raise.
    """
    if header.image_size != image.size or not header.chunk_size == chunk_size_for(image.size) <= _LARGEST_CHUNK:
        return False
    descriptor = os.open(image.volume, os.O_RDONLY | os.O_CLOEXEC)
    try:
        new = FileSource(descriptor, known=used)
        ends = [(source, source.extents(image.size)) for source in (new, old)]
        here, there = (bytes(_read(source, extents, 0, xfs.SUPERBLOCK)) for source, extents in ends)
        if not xfs.same_content(here, there):
            return False
        volatile = xfs.volatile(here)
        for chunk in _suspects(header, image, used, volatile, tracker, beside):
            for start in range(chunk.start, chunk.end, BLOCK):
                length = min(BLOCK, chunk.end - start)
                found = [_read(source, extents, start, length) for source, extents in ends]
                for begin, stop in volatile.within(start, start + length):
                    for each in found:
                        each[begin - start : stop - start] = bytes(stop - begin)
                if found[0] != found[1]:
                    return False
    except _Changed:
        return False
    finally:
        os.close(descriptor)
    return True


def _suspects(
    header: DatasetHeader, image: Image, used: Extents, volatile: Extents, tracker: Tracker, beside: Sequence[Look]
) -> Sequence[Chunk]:
    """The chunks that may differ in nothing but what is volatile. Raises _Changed if there are others."""
    found: list[Chunk] = []

    def check(chunk: Chunk, digest: bytes) -> None:
        if digest == header.digests[chunk.index]:
            return
        inside = list(volatile.within(chunk.start, chunk.end))
        if not inside:
            raise _Changed
        if inside != [(chunk.start, chunk.end)]:
            found.append(chunk)

    with volume_source(image.volume, used) as source:
        read_chunks([Look(source, chunks(image.size, header.chunk_size), check), *beside], tracker)
    return sorted(found, key=lambda chunk: chunk.start)


def _read(source: Source, extents: Extents, start: int, length: int) -> bytearray:
    """Bytes of an image; what its source does not have is zeros."""
    found = bytearray(length)
    with memoryview(found) as view:
        for begin, stop in extents.within(start, start + length):
            source.read(view[begin - start : stop - start], begin)
    return found
