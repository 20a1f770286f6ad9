"""Datasets that are two objects, a header and the packed image: what names them, and stage-in from them.

A header object is the dataset header of docs/dataset-format.md. Its notes name the data object and its size and the
dataset file, so that a pair of ids that somebody put together is refused, and old objects are dropped only if they are
this user's and this file's.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from dnd.hestia import packing
from dnd.hestia import pair as pairs
from dnd.hestia.store import NoObject, ObjectStore, Pauses
from dnd.staging.checkpoint import Checkpoints
from dnd.staging.detached import cancellable
from dnd.staging.image import fill_volume
from dnd.staging.progress import Tracker
from dnd.staging.source_file import check_size
from dnd.staging.target_file import partial_path
from ebb.as_user import AsUser, PathMissing
from ebb.dataset import HEADER_SIZE, DatasetHeader
from ebb.errors import UserError
from ebb.objectpair import Pair
from ebb.objectstore import PREFIX
from ebb.objectstore import ObjectStore as StoreSpec

DATA_OBJECT, DATA_SIZE, DATASET_FILE = "data_object", "data_size", "file"


@dataclass(frozen=True, slots=True)
class Access:
    """Everything needed to reach a user's objects. key: of dataset headers. pause: waits, unless cancelled."""

    user: AsUser
    key: bytes
    spec: StoreSpec
    store: ObjectStore
    pause: Pauses


def check_source(access: Access, data_src: str, name: str, storage_size: int) -> None:
    """Whether a dataset can become a buffer of `storage_size` bytes; called before anything is made for it.

    Raises UserError saying what is wrong and what to do, StoreFault if the store does not answer.
    """
    opened(access, data_src, name, storage_size)


def check_target(access: Access, data_dst: str, name: str, sid: str) -> None:
    """Whether a save will be able to put its file there, and the store answers. Raises UserError, StoreFault."""
    with access.user.session() as user:
        file = pairs.resolve(user, data_dst, name)
        try:
            user.check_target(file)
            user.check_target(partial_path(file, sid))  # its name is longer
            with_content = _size(user, file)
            if with_content:
                pairs.read(user, file)  # what is no dataset file of ours is not written over
        except UserError as error:
            raise UserError(f"data_dst={PREFIX}{data_dst}: {error.text}") from error
    access.store.check()


def stage_in(
    access: Access,
    data_src: str,
    name: str,
    volume: Path,
    storage_size: int,
    checkpoints: Checkpoints,
    tracker: Tracker,
) -> DatasetHeader:
    """Fill a volume from the data object, every chunk verified. Only after that may the volume be mounted.

    Goes on from `checkpoints`, which the caller forgets once the volume is not what was copied any more.
    Raises UserError if the pair is no valid dataset, EnvironmentFault if store or volume fail.
    """
    header, pair = opened(access, data_src, name, storage_size)
    what = f"dataset `{PREFIX}{data_src}`"
    try:
        cancellable(lambda: _fill(access, header, pair, what, volume, checkpoints, tracker), tracker)
    except (packing.Short, NoObject) as error:
        raise UserError(f"{what} is damaged: object {pair.data}: {error.text}; restore it from a copy") from error
    return header


def _fill(
    access: Access,
    header: DatasetHeader,
    pair: Pair,
    what: str,
    volume: Path,
    checkpoints: Checkpoints,
    tracker: Tracker,
) -> None:
    pieces = packing.stored(header.image_size, header.chunk_size, header.digests)
    with contextlib.closing(packing.PackedSource(access.store, pair.data, pieces)) as source:
        fill_volume(source, header, what, volume, checkpoints, tracker)
        source.check_end()


def opened(access: Access, data_src: str, name: str, storage_size: int) -> tuple[DatasetHeader, Pair]:
    """A dataset's header, its seal checked, and its objects. Raises as `check_source`."""
    told = f"data_src={PREFIX}{data_src}"
    try:
        with access.user.session() as user:
            pair = pairs.read(user, pairs.resolve(user, data_src, name))
    except PathMissing as error:
        raise UserError(f"{told} does not exist; leave data_src out to begin a new dataset") from error
    except UserError as error:
        raise UserError(f"{told}: {error.text}") from error
    try:
        header = DatasetHeader.unpack(read_header(access.store, pair.header), access.key)
    except NoObject as error:
        raise UserError(f"{told}: its header is lost: {error.text}") from error
    except UserError as error:
        raise UserError(f"{told}: object {pair.header} {error.text}") from error
    if header.notes.get(DATA_OBJECT, pair.data) != pair.data:
        raise UserError(f"{told}: object {pair.data} is not the data of header {pair.header}; restore the file")
    check_size(PREFIX + data_src, header, storage_size)
    return header, pair


def read_header(store: ObjectStore, object_id: str) -> bytes:
    """A header object; one that is longer is cut."""
    content = b""
    for piece in store.get(object_id):
        content += piece
        if len(content) > HEADER_SIZE:
            break
    return content[: HEADER_SIZE + 1]


def _size(user: AsUser, file: str) -> int:
    try:
        descriptor = user.open_source(file)
    except PathMissing:
        return 0
    try:
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
