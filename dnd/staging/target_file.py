"""Stage-out to a dataset file. The user's files are only ever made, opened and renamed as the user."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dnd.staging import unchanged
from dnd.staging.checkpoint import Checkpoints
from dnd.staging.copy import Reuse
from dnd.staging.detached import bounded, cancellable
from dnd.staging.ends import FileSource, FileTarget, Truncated
from dnd.staging.image import Image, save_volume, volume_source
from dnd.staging.kept import Kept, Stamp
from dnd.staging.progress import Tracker
from dnd.staging.sharing import Sharing
from dnd.staging.source_file import read_front
from dnd.tools import xfs
from ebb.as_user import AsUser
from ebb.dataset import HEADER_SIZE, DatasetHeader, chunk_size_for
from ebb.errors import EbbError, EnvironmentFault, UserError
from ebb.extents import Extents

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Begun:
    """A partial file: open, where the volume holds something, digests of the chunks that the file has already.

    shared: what an earlier try left in its other chunks may be of the dataset that the volume was filled from.
    """

    descriptor: int
    used: Extents
    done: dict[int, bytes]
    shared: bool


class _NoRoom(UserError):
    """The target's file system or quota is full."""


def partial_path(data_dst: str, sid: str) -> str:
    """Where a dataset grows until it is whole: beside the old one, so that renaming replaces that in one step."""
    return f"{data_dst}.ebb-{sid}.partial"


def stage_out(user: AsUser, data_dst: str, key: bytes, image: Image, sid: str, kept: Kept, tracker: Tracker) -> None:
    """Save an unmounted volume as the user's dataset. The old dataset stays whole until the new one replaces it.

    Called again after a crash or a failure it goes on from where it was, as long as volume and partial file are the
    same. Raises UserError or EnvironmentFault. Only where there is no room is the partial file removed then.
    """
    with user.session() as session:
        _stage_out(session, data_dst, key, image, sid, kept, tracker)


def _stage_out(user: AsUser, data_dst: str, key: bytes, image: Image, sid: str, kept: Kept, tracker: Tracker) -> None:
    partial = partial_path(data_dst, sid)
    if _is_done(user, data_dst, key, kept.saving):
        kept.saving.forget()
        return
    begun = _resume(user, partial, image, kept.saving)
    if begun is None:
        used = image.used()
        if cancellable(lambda: _is_unchanged(user, data_dst, key, image, used, kept, tracker), tracker):
            logger.info("%s has what is to be saved: nothing is written", data_dst)
            kept.saving.forget()
            user.remove(partial)
            return
        begun = _begin(user, partial, data_dst, image, used, kept)
    inode = os.fstat(begun.descriptor).st_ino
    try:
        cancellable(lambda: _write_and_close(user, begun, key, image, kept, tracker, data_dst), tracker)
        user.replace(partial, data_dst, inode=inode)
    except _NoRoom:
        kept.saving.forget()
        try:
            user.remove(partial)
        except EbbError as error:
            logger.warning("partial file stays behind: %s", error.text)
        raise
    kept.saving.forget()


def _is_done(user: AsUser, data_dst: str, key: bytes, checkpoints: Checkpoints) -> bool:
    """Whether an earlier try came as far as the renaming: then the partial file is the dataset now."""
    saved = checkpoints.load()
    if saved is None:
        return False
    try:
        descriptor = user.open_source(data_dst)
    except EbbError:
        return False

    def look() -> bool:
        try:
            if os.fstat(descriptor).st_ino != saved.identity.get("inode"):
                return False
            DatasetHeader.unpack(read_front(descriptor), key)
            return True
        except (UserError, OSError):
            return False
        finally:
            os.close(descriptor)

    return bounded(look, user.timeout, f"data_dst `{data_dst}`")


def _resume(user: AsUser, partial: str, image: Image, checkpoints: Checkpoints) -> _Begun | None:
    saved = checkpoints.load()
    if saved is None:
        return None
    try:
        descriptor = user.reopen(partial)
    except UserError:
        return None
    try:
        plan = {name: saved.identity.get(name) for name in ("used", "shared")}
        if saved.identity == {**_identity(partial, image, descriptor), **plan}:
            used = Extents.of((begin, stop) for begin, stop in saved.identity["used"])
            logger.info("stage-out to %s goes on: %d chunks are there", partial, len(saved.done))
            return _Begun(descriptor, used, saved.done, bool(plan["shared"]))
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _is_unchanged(
    user: AsUser, data_dst: str, key: bytes, image: Image, used: Extents, kept: Kept, tracker: Tracker
) -> bool:
    """Whether the dataset is the file that the volume was filled from, verified then, and holds what the volume has."""
    remembered = kept.source()
    if remembered is None:
        return False
    try:
        descriptor = user.open_source(data_dst)
    except EbbError:
        return False
    try:
        if Stamp.of(descriptor) != remembered.stamp:
            return False
        header = DatasetHeader.unpack(read_front(descriptor), key)
        return unchanged.is_same(FileSource(descriptor, HEADER_SIZE), header, image, used, tracker)
    except (UserError, Truncated):  # no seal of this site, or not what it was
        return False
    except OSError as error:
        raise EnvironmentFault(f"data_dst `{data_dst}`: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _begin(user: AsUser, partial: str, data_dst: str, image: Image, used: Extents, kept: Kept) -> _Begun:
    kept.saving.forget()
    descriptor = user.create_anew(partial, like=data_dst)
    shared = kept.source() is not None
    plan = {"used": [list(each) for each in used], "shared": shared}
    # The volume stays as it is while it is copied: its fingerprint can be taken when it is needed.
    kept.saving.plan(lambda: {**_identity(partial, image, descriptor), **plan})
    return _Begun(descriptor, used, {}, shared=False)


def _identity(partial: str, image: Image, descriptor: int) -> dict[str, object]:
    """What must be the same for a save to go on: volume, what is in it, and the partial file."""
    return {
        "partial": partial,
        "inode": os.fstat(descriptor).st_ino,
        "volume": str(image.volume),
        "size": image.size,
        "fingerprint": xfs.fingerprint(image.volume),
    }


def _write_and_close(
    user: AsUser, begun: _Begun, key: bytes, image: Image, kept: Kept, tracker: Tracker, data_dst: str
) -> None:
    try:
        _write_dataset(user, begun, key, image, kept, tracker)
    except OSError as error:
        raise _explained(error, data_dst, image, tracker) from error
    finally:
        # A network file system reports the last writes' errors here.
        _close(begun.descriptor, data_dst)


def _write_dataset(user: AsUser, begun: _Begun, key: bytes, image: Image, kept: Kept, tracker: Tracker) -> None:
    descriptor = begun.descriptor
    os.ftruncate(descriptor, HEADER_SIZE + image.size)
    target = FileTarget(descriptor, HEADER_SIZE)
    with volume_source(image.volume, begun.used) as source, _shared(user, kept, key, image, begun) as reuse:
        identity = xfs.identity(_superblock(image.volume))
        chunk_size, digests = save_volume(source, target, image.size, begun.done, kept.saving, tracker, reuse)
    header = DatasetHeader(
        image.size, chunk_size, tuple(digests), identity, int(time.time()), user.uid, user.gid, image.notes
    )
    os.pwrite(descriptor, header.pack(key), 0)
    # Nothing of it is a dataset before the renaming, so one sync will do.
    target.sync()


def _superblock(volume: Path) -> bytes:
    with volume.open("rb", buffering=0) as file:
        return file.read(512)


@contextlib.contextmanager
def _shared(user: AsUser, kept: Kept, key: bytes, image: Image, begun: _Begun) -> Iterator[Reuse | None]:
    """How to take unchanged chunks from the dataset that the volume was filled from, None if that cannot be.

    The file must be the one that was verified then.
    """
    with _old_dataset(user, kept, key) as (descriptor, old):
        if old is not None and old.image_size <= image.size and old.chunk_size == chunk_size_for(image.size):
            sharing = Sharing(descriptor, old, begun.descriptor, begun.done, clean=not begun.shared)
        else:
            sharing = Sharing(descriptor, None, begun.descriptor, begun.done, clean=not begun.shared)
        yield sharing.reuse if sharing.begin() or begun.shared else None


@contextlib.contextmanager
def _old_dataset(user: AsUser, kept: Kept, key: bytes) -> Iterator[tuple[int, DatasetHeader | None]]:
    """The file that the volume was filled from, open, and its header; -1 and None if it is no longer what it was."""
    remembered = kept.source()
    if remembered is None:
        yield -1, None
        return
    try:
        descriptor = user.open_source(remembered.path)
    except EbbError:
        yield -1, None
        return
    try:
        old = None
        with contextlib.suppress(OSError, UserError):
            if Stamp.of(descriptor) == remembered.stamp:
                old = DatasetHeader.unpack(read_front(descriptor), key)
        yield descriptor, old
    finally:
        os.close(descriptor)


def _explained(error: OSError, data_dst: str, image: Image, tracker: Tracker) -> EbbError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        moved = tracker.snapshot()
        need = f"up to {moved.total if moved else image.size} bytes"
        return _NoRoom(
            f"data_dst `{data_dst}`: {error.strerror}; it needs {need}; make room and destroy again, the "
            "data is kept meanwhile"
        )
    return EnvironmentFault(f"data_dst `{data_dst}`: {error.strerror or error}; destroy again to go on from here")


def _close(descriptor: int, path: str) -> None:
    try:
        os.close(descriptor)
    except OSError as error:
        raise EnvironmentFault(f"data_dst `{path}`: {error.strerror}") from error
