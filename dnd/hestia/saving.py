"""Stage-out to two objects: put, read back, then named by the dataset file; the old pair goes only after that.

A store in a folder takes chunks into a file as they are read, and goes on with it after a crash. One behind HTTP wants
the length with the first byte: the volume is read for its digests, then read again for the put, which a crash costs.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from dnd.hestia import packing
from dnd.hestia import pair as pairs
from dnd.hestia.dataset import DATA_OBJECT, DATA_SIZE, DATASET_FILE, Access, check_target, read_header
from dnd.hestia.ledger import Entry, Ledger
from dnd.hestia.store import Filling, NoObject, StoreFault
from dnd.staging import unchanged
from dnd.staging.checkpoint import Checkpoints, Saved
from dnd.staging.copy import Chunk
from dnd.staging.detached import cancellable
from dnd.staging.ends import Source
from dnd.staging.image import Image, save_volume, volume_source
from dnd.staging.progress import Tracker
from dnd.staging.target_file import partial_path
from dnd.tools import xfs
from ebb.as_user import PathMissing
from ebb.dataset import DatasetHeader, chunk_count, chunk_size_for
from ebb.errors import EbbError, EnvironmentFault, UserError
from ebb.extents import Extents
from ebb.objectpair import Pair
from ebb.objectstore import PREFIX

logger = logging.getLogger(__name__)

_PAUSES = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)


class Lied(StoreFault):
    """The store gave back other bytes than it was given: nothing of what it has can be gone on from."""


@dataclass(frozen=True, slots=True)
class _Save:
    """A save under way. used: where the volume holds something; done: digests of chunks that an earlier try put."""

    access: Access
    image: Image
    entry: Entry
    used: Extents
    done: dict[int, bytes]
    checkpoints: Checkpoints
    tracker: Tracker


def stage_out(
    access: Access, data_dst: str, image: Image, sid: str, tracker: Tracker, ledger: Ledger, checkpoints: Checkpoints
) -> None:
    """Save an unmounted volume as a new pair of objects, verified by reading them back, then rename the dataset file.

    The old pair stays whole until the file names the new one. Called again after a crash or failure it goes on, as far
    as the store allows, from what `checkpoints` have. Raises UserError or EnvironmentFault; what was made then stays
    while the checkpoints do, else it is dropped, now or as soon as the store is there again.
    """
    with access.user.session() as user:
        _stage_out(replace(access, user=user), data_dst, image, sid, tracker, ledger, checkpoints)


def _stage_out(
    access: Access, data_dst: str, image: Image, sid: str, tracker: Tracker, ledger: Ledger, checkpoints: Checkpoints
) -> None:
    file = pairs.resolve(access.user, data_dst, image.notes["name"])
    saved = checkpoints.load()
    if saved is not None and _is_done(access, file, saved, image):
        checkpoints.forget()
        return
    check_target(access, data_dst, image.notes["name"], sid)
    save = _resumed(access, file, image, saved, ledger, checkpoints, tracker)
    if save is None:
        checkpoints.forget()
        used = image.used()
        if (old := _ours(access, file)) is not None:
            pair, sealed = old
            if cancellable(lambda: _holds(access, pair, sealed, image, used, tracker), tracker):
                logger.info("%s%s has what is to be saved: nothing is put", PREFIX, file)
                return
        entry = ledger.begin(access.spec, access.user, file, partial_path(file, sid), str(checkpoints.path))
        save = _Save(access, image, entry, used, {}, checkpoints, tracker)
    entry = save.entry
    try:
        header = cancellable(lambda: _put(save), tracker)
        _put_header(access, entry, header)
        old = _ours(access, file)
        pairs.write_aside(access.user, entry.aside, entry.file, entry.new)
        entry = ledger.renaming(entry, old[0] if old is not None else None)
        access.user.replace(entry.aside, file)
        entry = ledger.cleaning(entry)
        checkpoints.forget()
    except Lied:
        checkpoints.forget()
        raise
    except OSError as error:
        raise _explained(error, file, access, checkpoints) from error
    finally:
        ledger.close(entry)


def _identity(image: Image, entry: Entry) -> dict[str, object]:
    """What must be the same for a save to go on: volume, what is in it, and the objects."""
    return {
        "volume": str(image.volume),
        "size": image.size,
        "fingerprint": xfs.fingerprint(image.volume),
        "entry": entry.id,
        "objects": [entry.new.header, entry.new.data],
    }


def _is_done(access: Access, file: str, saved: Saved, image: Image) -> bool:
    """Whether an earlier try came as far as the renaming: then the file names its objects."""
    if saved.identity.get("fingerprint") != xfs.fingerprint(image.volume):
        return False
    try:
        found = pairs.read(access.user, file)
    except EbbError:
        return False
    return [found.header, found.data] == saved.identity.get("objects")


def _resumed(
    access: Access,
    file: str,
    image: Image,
    saved: Saved | None,
    ledger: Ledger,
    checkpoints: Checkpoints,
    tracker: Tracker,
) -> _Save | None:
    entry = None if saved is None else ledger.resume(str(saved.identity.get("entry")))
    if saved is None or entry is None:
        return None
    used = saved.identity.get("used")
    same = saved.identity == {**_identity(image, entry), "used": used} and isinstance(used, list)
    done = packing.whole_prefix(saved.done)
    if not (
        same and done and entry.file == file and entry.store == access.spec and access.store.exists(entry.new.data)
    ):
        checkpoints.forget()
        ledger.close(entry)
        return None
    if len(done) < len(saved.done):
        checkpoints.begin(saved.identity, done.items())  # the others are cut off, and copied anew
    logger.info("stage-out to %s%s goes on: %d chunks are there", PREFIX, file, len(done))
    extents = Extents.of((begin, stop) for begin, stop in used) if isinstance(used, list) else Extents((), ())
    return _Save(access, image, entry, extents, done, checkpoints, tracker)


def _holds(access: Access, pair: Pair, header: DatasetHeader, image: Image, used: Extents, tracker: Tracker) -> bool:
    """Whether a pair has what the volume has; True only after its data object was read back whole."""
    pieces = packing.stored(header.image_size, header.chunk_size, header.digests)
    try:
        with (
            contextlib.closing(packing.PackedSource(access.store, pair.data, pieces)) as old,
            contextlib.closing(packing.PackedSource(access.store, pair.data, pieces)) as whole,
        ):
            if not unchanged.is_same(old, header, image, used, tracker, [whole.look(header.digests)]):
                return False
            whole.check_end()
    except (packing.Damaged, packing.Short, NoObject) as error:
        logger.warning("object %s is not what was saved, and is put anew: %s", pair.data, error)
        return False
    except OSError as error:
        raise EnvironmentFault(f"volume {image.volume} cannot be read: {error.strerror}") from error
    return True


def _put(save: _Save) -> DatasetHeader:
    """Put the data object, and read it back. Returns its header."""
    access, image, data = save.access, save.image, save.entry.new.data
    chunk_size, held = chunk_size_for(image.size), sum(stop - begin for begin, stop in save.used)
    if not save.done:
        access.store.create(data, f"{image.notes['name']} data")
    filling = access.store.fill(data)
    save.tracker.announce(held if filling is not None else 2 * held)
    with volume_source(image.volume, save.used) as source:
        if filling is not None:
            digests = _fill(save, source, filling, chunk_size)
        else:
            digests = packing.digest_image(source, image.size, chunk_size, save.tracker)
            pieces = packing.stored(image.size, chunk_size, digests)
            access.store.put(data, packing.size_of(pieces), lambda: _body(source, pieces, save.tracker))
    pieces = packing.stored(image.size, chunk_size, digests)
    with image.volume.open("rb", buffering=0) as file:
        filesystem = xfs.identity(file.read(512))
    _verified(access, data, lambda: packing.check_object(access.store, data, pieces, digests, save.tracker))
    notes = {
        **image.notes,
        DATA_OBJECT: data,
        DATA_SIZE: str(packing.size_of(pieces)),
        DATASET_FILE: save.entry.file,
    }
    return DatasetHeader(
        image.size, chunk_size, digests, filesystem, int(time.time()), access.user.uid, access.user.gid, notes
    )


def _fill(save: _Save, source: Source, filling: Filling, chunk_size: int) -> tuple[bytes, ...]:
    """Copy the volume into the object's file; the digests of all chunks. Closes the file."""
    size, done = save.image.size, save.done
    try:
        if len(done) == chunk_count(size, chunk_size) and save.access.store.locate(save.entry.new.data):
            return tuple(done[number] for number in range(len(done)))  # it was put whole, and not verified
        if os.fstat(filling.descriptor).st_size < packing.length_of(done, size, chunk_size):
            done = {}  # it is not the file that an earlier try had
        plan = {"used": [list(each) for each in save.used]}
        if not done:
            save.checkpoints.forget()
            # The volume stays as it is while it is copied: its fingerprint can be taken when it is needed.
            save.checkpoints.plan(lambda: {**_identity(save.image, save.entry), **plan})
        target = packing.PackedTarget(filling.descriptor, size, chunk_size, done)
        _, digests = save_volume(source, target, size, done, save.checkpoints, save.tracker)
        target.sync()
        if save.checkpoints.path.exists():
            save.checkpoints.add(enumerate(digests))
        filling.finish()
        return tuple(digests)
    finally:
        os.close(filling.descriptor)


def _body(source: Source, pieces: Sequence[Chunk], tracker: Tracker) -> Iterator[memoryview]:
    size = packing.size_of(pieces)
    tracker.announce(size)  # it is read back after that; at another try all begins anew
    tracker.begin(size)
    return packing.packed(source, pieces, tracker)


def _put_header(access: Access, entry: Entry, header: DatasetHeader) -> None:
    content, object_id = header.pack(access.key), entry.new.header
    access.store.create(object_id, f"{header.notes['name']} header")
    access.store.put(object_id, len(content), lambda: iter([content]))

    def read_back() -> None:
        found = read_header(access.store, object_id)
        if len(found) < len(content):
            raise packing.Short(f"{len(found)} of {len(content)} bytes are there")
        if found != content:
            raise UserError("the header is not what was put")

    _verified(access, object_id, read_back)


def _verified(access: Access, object_id: str, read_back: Callable[[], None]) -> None:
    """Read back what was put. A store that answers `running` may need a moment; one that gives other bytes lies."""
    deadline, attempt = time.monotonic() + access.spec.patience, 0
    while True:
        try:
            read_back()
            return
        except (NoObject, packing.Short) as error:
            if time.monotonic() > deadline:
                raise StoreFault(
                    f"object {object_id} was put but is not whole after {access.spec.patience} s: {error.text}"
                ) from error
        except UserError as error:
            raise Lied(
                f"object store {access.spec.location} gave back other bytes than it was given: object {object_id}: "
                f"{error.text}"
            ) from error
        access.pause(_PAUSES[min(attempt, len(_PAUSES) - 1)])
        attempt += 1


def _ours(access: Access, file: str) -> tuple[Pair, DatasetHeader] | None:
    """The pair that a dataset file names now and its header, if it is to go when another takes its place.

    Ids come out of a user's file: only a sealed header says whose objects they are. A copy of a dataset file names the
    same objects as the original, which stay as long as that names them.
    """
    try:
        old = pairs.read(access.user, file)
        header = DatasetHeader.unpack(read_header(access.store, old.header), access.key)
    except UserError as error:  # no file, no pair, no object, or not this site's
        if not isinstance(error, PathMissing):
            logger.info("what %s names stays: %s", file, error.text)
        return None
    home = header.notes.get(DATASET_FILE, "")
    if header.uid != access.user.uid or header.notes.get(DATA_OBJECT) != old.data:
        logger.warning("%s names objects that are not its own; they stay", file)
        return None
    if home != file:
        try:
            if pairs.read(access.user, home) == old:
                return None
        except PathMissing:
            pass  # the file was moved here
        except EbbError:
            return None
    return old, header


def _explained(error: OSError, file: str, access: Access, checkpoints: Checkpoints) -> EbbError:
    told = f"data_dst `{PREFIX}{file}`: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        checkpoints.forget()  # what was put is dropped, so that there is room for others meanwhile
        where = access.spec.location
        return EnvironmentFault(f"{told}; make room in the object store {where} and destroy again, the data is kept")
    return EnvironmentFault(f"{told}; destroy again to go on from here")
