"""What `ebb dataset` does with a HESTIA@ dataset: a file of two lines that names a header and a data object."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from ebb import config, datanodes
from ebb.dataset import HEADER_SIZE, HOLE, DatasetHeader
from ebb.errors import EbbError, UserError
from ebb.object_reader import ObjectReader
from ebb.objectpair import LARGEST, Pair, parse
from ebb.objectstore import PREFIX, ObjectStore, StoreKind, file_of, names_objects


def pair_in(file: str, descriptor: int) -> Pair | None:
    """The objects that an open file names; None if it is no such file, and nobody said so with HESTIA@ in front.

    Raises UserError for a malformed file that was called one.
    """
    content = os.pread(descriptor, LARGEST + 1, 0)
    try:
        return parse(content)
    except UserError as error:
        if names_objects(file):
            raise UserError(f"{file_of(file)} {error.text}") from error
        return None


def plain(file: str) -> Path:
    """The path, without HESTIA@; of a directory that has it its newest file, as at stage-in."""
    path = Path(file_of(file))
    if not names_objects(file) or not path.is_dir():
        return path
    found = [each for each in path.iterdir() if not each.name.startswith(".") and stat.S_ISREG(each.lstat().st_mode)]
    return max(found, key=lambda each: each.stat().st_mtime_ns, default=path)


def reader_of(file: str, pair: Pair, store: str | None, settings: Path) -> ObjectReader:
    """A reader of the store that `--store` or datanodes.conf names. Raises UserError saying what to do without one."""
    if store is not None:
        kind = StoreKind.HESTIA if store.startswith(("http://", "https://")) else StoreKind.EMBEDDED
        if kind is StoreKind.EMBEDDED and not store.startswith("/"):
            raise UserError(f"--store {store}: give the URL of Hestia's API, or the folder of an embedded store")
        return ObjectReader(ObjectStore(kind, store, 16))
    try:
        found = datanodes.load(config.load(settings).datanodes_conf).object_store
    except (EbbError, OSError):
        found = None
    if found is None:
        raise UserError(
            f"{file} names objects {pair.header} and {pair.data} of an object store that is not known on this node: "
            f"say --store URL or FOLDER; or stage it in with data_src={PREFIX}{file}, which checks every byte"
        )
    return ObjectReader(found)


def header_bytes(reader: ObjectReader, pair: Pair) -> bytes:
    """The header object. Raises UserError, EnvironmentFault."""
    content = b""
    for piece in reader.read(pair.header):
        content += piece
        if len(content) > HEADER_SIZE:
            break
    return content[:HEADER_SIZE]


def check_data(reader: ObjectReader, pair: Pair, header: DatasetHeader) -> int:
    """Read the data object, compare each chunk. Returns how many bytes it has. Raises UserError for what is wrong."""
    if header.notes.get("data_object", pair.data) != pair.data:
        raise UserError(f"object {pair.data} is not the data of header {pair.header}")
    stream, rest, done = iter(reader.read(pair.data)), b"", 0
    for number, digest in enumerate(header.digests):
        if digest == HOLE:
            continue
        start = number * header.chunk_size
        left, hasher = min(header.chunk_size, header.image_size - start), blake3()
        while left:
            rest = rest or next(stream, b"")
            if not rest:
                raise UserError(f"object {pair.data} is cut short: it ends at byte {done}")
            piece, rest = rest[:left], rest[left:]
            hasher.update(piece)
            left, done = left - len(piece), done + len(piece)
        if hasher.digest() != digest:
            raise UserError(f"object {pair.data} is damaged: bytes {start} and on of the image are not what was saved")
    if rest or next(stream, b""):
        raise UserError(f"object {pair.data} is longer than the {done} bytes that were saved")
    return done


def told(pair: Pair, header: DatasetHeader) -> Iterator[tuple[str, object]]:
    """What `info` tells beside the header."""
    yield "header_object", pair.header
    yield "data_object", f"{pair.data}, {header.notes.get('data_size', '?')} bytes"
