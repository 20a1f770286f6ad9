"""An image between a volume and any end: fill a volume from a dataset, save a volume as one. What is done is kept in
checkpoints, so that a copy that was cut short goes on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dnd.staging.checkpoint import Checkpoints, Keeper
from dnd.staging.copy import Chunk, Reuse, chunks, copy_chunks
from dnd.staging.ends import ALIGNED, FileSource, FileTarget, Source, Target
from dnd.staging.progress import Tracker
from ebb.dataset import HOLE, DatasetHeader, chunk_size_for
from ebb.errors import EnvironmentFault, UserError
from ebb.extents import Extents

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Image:
    """What a stage-out saves: an unmounted volume. size: exactly StorageSize; notes: for people who read the header.

    used: a call that brings the file system to rest and says where it holds something (`dnd.staging.settled`).
    """

    volume: Path
    size: int
    notes: dict[str, str]
    used: Callable[[], Extents]


def fill_volume(
    source: Source, header: DatasetHeader, what: str, volume: Path, checkpoints: Checkpoints, tracker: Tracker
) -> None:
    """Copy an image into a volume, every chunk verified; on disk when this returns. Only after that may it be mounted.

    what: how messages name the dataset. Checkpoints of the same image (by its seal) and volume are gone on from.
    Without any checkpoints the volume must be zeros; with those of another image it is made so. Raises UserError for a
    damaged dataset, EnvironmentFault if writing fails, and what the source raises.
    """
    identity = {"seal": header.seal.hex(), "volume": str(volume)}
    saved = checkpoints.load()
    pieces = [chunk for chunk in chunks(header.image_size, header.chunk_size) if header.digests[chunk.index] != HOLE]
    with _volume_target(volume, what) as target:
        if saved is not None and saved.identity == identity:
            logger.info("stage-in to %s goes on: %d chunks are there", volume, len(saved.done))
            pieces = [chunk for chunk in pieces if saved.done.get(chunk.index) != header.digests[chunk.index]]
            for begin, stop in Extents.of((chunk.start, chunk.end) for chunk in pieces):
                # Half a chunk may be here; zeros are not written over it.
                target.clear(begin, stop)
        else:
            if saved is not None:
                target.clear(0, os.lseek(target.descriptor, 0, os.SEEK_END))
                checkpoints.forget()
            checkpoints.plan(lambda: identity)
        with Keeper(checkpoints, target) as keeper:

            def verify(chunk: Chunk, digest: bytes) -> None:
                if digest != header.digests[chunk.index]:
                    raise UserError(
                        f"{what} is damaged: bytes {chunk.start} to {chunk.end - 1} of its image are not what was "
                        "saved; restore it from a copy"
                    )
                keeper.note(chunk.index, digest)

            copy_chunks(source, target, pieces, tracker, verify)
        target.sync()


@contextlib.contextmanager
def _volume_target(volume: Path, what: str) -> Iterator[FileTarget]:
    """A volume opened to be filled. Devices are written past the page cache, as far as that can be."""
    flags, direct = os.O_WRONLY | os.O_CLOEXEC, None
    descriptor = os.open(volume, flags)
    try:
        if stat.S_ISBLK(os.fstat(descriptor).st_mode):
            direct = os.open(volume, flags | os.O_DIRECT)
        yield FileTarget(descriptor, direct=direct)
    except OSError as error:
        raise EnvironmentFault(f"{what} could not be copied to {volume}: {error.strerror}") from error
    finally:
        if direct is not None:
            os.close(direct)
        os.close(descriptor)


def save_volume(
    source: Source,
    target: Target,
    size: int,
    done: Mapping[int, bytes],
    checkpoints: Checkpoints,
    tracker: Tracker,
    reuse: Reuse | None = None,
) -> tuple[int, list[bytes]]:
    """Copy a volume's image of `size` bytes to `target`; chunk size and digests for the header, which comes after it.

    done: digests of chunks that the target has from an earlier try. `checkpoints` were begun or planned by the caller,
    who also syncs the target at the end. A target that is no stream must read as zeros, or as an earlier try of the
    same image left it, where chunks are missing.
    """
    chunk_size = chunk_size_for(size)
    pieces = chunks(size, chunk_size)
    digests = [done.get(chunk.index, HOLE) for chunk in pieces]
    with Keeper(checkpoints, target) as keeper:

        def note(chunk: Chunk, digest: bytes) -> None:
            digests[chunk.index] = digest
            keeper.note(chunk.index, digest)

        copy_chunks(source, target, [chunk for chunk in pieces if chunk.index not in done], tracker, note, reuse)
    return chunk_size, digests


@contextlib.contextmanager
def volume_source(volume: Path, used: Extents) -> Iterator[FileSource]:
    """A volume opened for a save: only what its file system uses is read. Devices are read past the page cache."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    aligned = all(begin % ALIGNED == 0 and stop % ALIGNED == 0 for begin, stop in used)
    if aligned and stat.S_ISBLK(volume.stat().st_mode):
        flags |= os.O_DIRECT
    descriptor = os.open(volume, flags)
    try:
        yield FileSource(descriptor, known=used)
    finally:
        os.close(descriptor)
