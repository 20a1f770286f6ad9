"""Stage-in from a dataset file. The user's file is only ever opened as the user."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from dnd.staging.detached import bounded, cancellable
from dnd.staging.ends import FileSource, Truncated
from dnd.staging.image import fill_volume
from dnd.staging.kept import Kept, Remembered, Stamp
from dnd.staging.progress import Tracker
from ebb.as_user import AsUser, PathMissing
from ebb.dataset import HEADER_SIZE, DatasetHeader, WrongSeal
from ebb.errors import EnvironmentFault, UserError


def check_source(user: AsUser, data_src: str, key: bytes, storage_size: int, *, foreign: bool = False) -> bool:
    """Whether a dataset can become a buffer of `storage_size` bytes; called before anything is made for it.

    foreign: take one without this site's seal as well. Returns whether it is such a one.
    Raises UserError saying what is wrong with the file and what to do.
    """
    with opened(user, data_src, key, foreign=foreign) as (header, _):
        check_size(data_src, header, storage_size)
        return header.foreign


def stage_in(
    user: AsUser,
    data_src: str,
    key: bytes,
    volume: Path,
    storage_size: int,
    kept: Kept,
    tracker: Tracker,
    *,
    foreign: bool = False,
) -> DatasetHeader:
    """Copy a dataset's image into a volume, every chunk verified. Only after that may the volume be mounted.

    Goes on from `kept.filling`, which the caller forgets once the volume is not what was copied any more.
    A header that comes back as foreign means that nobody vouches for the image.
    Raises UserError if the file is no valid dataset, EnvironmentFault if reading or writing fails.
    """
    with opened(user, data_src, key, foreign=foreign) as (header, descriptor):
        check_size(data_src, header, storage_size)
        stamp = Stamp.of(descriptor)
        try:
            cancellable(lambda: _fill(os.dup(descriptor), header, data_src, volume, kept, tracker), tracker)
        except Truncated as error:
            raise UserError(f"dataset `{data_src}` is cut short: {error.text}; restore it from a copy") from error
        if Stamp.of(descriptor) == stamp:
            kept.remember(Remembered(data_src, stamp))
        return header


def _fill(descriptor: int, header: DatasetHeader, data_src: str, volume: Path, kept: Kept, tracker: Tracker) -> None:
    """Closes the descriptor."""
    try:
        source = FileSource(descriptor, HEADER_SIZE)
        fill_volume(source, header, f"dataset `{data_src}`", volume, kept.filling, tracker)
    finally:
        os.close(descriptor)


def check_size(data_src: str, header: DatasetHeader, storage_size: int) -> None:
    """Raise UserError if a buffer of `storage_size` bytes is too small for a dataset: a file system cannot shrink."""
    if header.image_size > storage_size:
        raise UserError(
            f"StorageSize {storage_size} is smaller than the dataset `{data_src}`, which needs "
            f"StorageSize={header.image_size}"
        )


@contextlib.contextmanager
def opened(user: AsUser, data_src: str, key: bytes, *, foreign: bool = False) -> Iterator[tuple[DatasetHeader, int]]:
    """A dataset file's header, its seal and the file's length checked, and its descriptor."""
    try:
        descriptor = user.open_source(data_src)
    except PathMissing as error:
        raise UserError(f"data_src `{data_src}` does not exist; leave data_src out to begin a new dataset") from error
    except UserError as error:
        raise UserError(f"data_src {error.text}") from error
    try:
        try:
            mine = os.dup(descriptor)
            header = _header(bounded(lambda: _front(mine), user.timeout, f"data_src `{data_src}`"), key, foreign)
        except UserError as error:
            raise UserError(f"data_src `{data_src}` {error.text}") from error
        except OSError as error:
            raise EnvironmentFault(f"data_src `{data_src}` cannot be read: {error.strerror}") from error
        length = os.fstat(descriptor).st_size
        if length < HEADER_SIZE + header.image_size:
            raise UserError(
                f"data_src `{data_src}` is cut short: {length} bytes of {HEADER_SIZE + header.image_size}; "
                "restore it from a copy"
            )
        yield header, descriptor
    finally:
        os.close(descriptor)


def _header(front: bytes, key: bytes, foreign: bool) -> DatasetHeader:
    try:
        return DatasetHeader.unpack(front, key)
    except WrongSeal:
        if not foreign:
            raise
        return DatasetHeader.unsealed(front)


def _front(descriptor: int) -> bytes:
    """Closes the descriptor."""
    try:
        return read_front(descriptor)
    finally:
        os.close(descriptor)


def read_front(descriptor: int) -> bytes:
    """The bytes of a header, fewer if the file ends before. Raises OSError."""
    front = b""
    while len(front) < HEADER_SIZE:
        piece = os.pread(descriptor, HEADER_SIZE - len(front), len(front))
        if not piece:
            break
        front += piece
    return front
