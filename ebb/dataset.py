"""The dataset file: a 1 MiB header, then the image of a file system. docs/dataset-format.md describes the format.

The header holds a digest of every chunk of the image and a MAC over all of itself, made with the site's key. An image
is hostile input to the kernel that mounts it: only one whose MAC and digests are right was written by this site's Ebb.
"""

from __future__ import annotations

import hmac
import json
import struct
import uuid
from dataclasses import dataclass, field, replace
from typing import Any

from ebb.errors import UserError

HEADER_SIZE = 1 << 20
DIGEST_SIZE = 32
HOLE = bytes(DIGEST_SIZE)
"""Digest of a chunk that is all zeros: it is not stored as data, and not read."""
MIN_CHUNK = 1 << 20
_MAGIC = b"EBB-DATASET\r\n\x1a\n\0"  # as PNG does: broken by text-mode copies, by 7-bit and by truncation at a NUL
_VERSION = 1
_FIXED = struct.Struct("<16sIIQQQ16sQII")
_TEXT_AT = 4096
_TABLE_AT = 65536
_MAC_AT = HEADER_SIZE - 32
MAX_CHUNKS = (_MAC_AT - _TABLE_AT) // DIGEST_SIZE


class WrongSeal(UserError):
    """The header is of the right form, but its MAC was not made with this site's key."""


@dataclass(frozen=True, slots=True)
class DatasetHeader:
    """What stands in front of an image.

    image_size: bytes, exactly the buffer's StorageSize. digests: one a chunk, 32 bytes of BLAKE3, HOLE for all zeros.
    created: seconds since 1970. uid, gid: the buffer's owner then. notes: for people, such as name, sid and datanode.
    """

    image_size: int
    chunk_size: int
    digests: tuple[bytes, ...]
    filesystem: uuid.UUID
    created: int
    uid: int
    gid: int
    notes: dict[str, str]
    seal: bytes = field(default=b"", compare=False)
    """Of a header that was read: two with one seal are the same. Not looked at by `pack`."""
    foreign: bool = field(default=False, compare=False)
    """The header was read without believing it (`unsealed`)."""

    def pack(self, key: bytes) -> bytes:
        """The header's 1 MiB, sealed with `key` (from `dataset_key`). Called at the end of a stage-out."""
        if len(self.digests) != chunk_count(self.image_size, self.chunk_size):
            raise ValueError(f"{len(self.digests)} digests for {self.image_size} bytes of {self.chunk_size} a chunk")
        text = json.dumps(self.notes, sort_keys=True).encode()
        if len(text) > _TABLE_AT - _TEXT_AT - 4:
            raise ValueError(f"{len(text)} bytes of notes")
        header = bytearray(HEADER_SIZE)
        _FIXED.pack_into(
            header,
            0,
            _MAGIC,
            _VERSION,
            HEADER_SIZE,
            self.image_size,
            self.chunk_size,
            len(self.digests),
            self.filesystem.bytes,
            self.created,
            self.uid,
            self.gid,
        )
        struct.pack_into("<I", header, _TEXT_AT, len(text))
        header[_TEXT_AT + 4 : _TEXT_AT + 4 + len(text)] = text
        table = b"".join(self.digests)
        header[_TABLE_AT : _TABLE_AT + len(table)] = table
        header[_MAC_AT:] = _mac(key, header)
        return bytes(header)

    @classmethod
    def unpack(cls, header: bytes, key: bytes) -> DatasetHeader:
        """Read and believe a header only if its MAC is right. Called at stage-in.

        Raises UserError with what is wrong with the file: the caller puts its path in front.
        """
        _check_format(header)
        if not hmac.compare_digest(_mac(key, header), header[_MAC_AT:HEADER_SIZE]):
            raise WrongSeal(
                "was changed, or was written by another site: its seal does not fit; give a dataset that was saved here"
            )
        return cls._read(header)

    @classmethod
    def unsealed(cls, header: bytes) -> DatasetHeader:
        """Read a header without believing it: for people who look, and for foreign images that are checked otherwise.

        Raises UserError as `unpack`.
        """
        _check_format(header)
        try:
            found = cls._read(header)
        except (ValueError, RecursionError) as error:
            raise UserError("is damaged: its notes cannot be read") from error
        # Its own seal says nothing of the rest.
        return replace(found, seal=_mac(b"unsealed", header), foreign=True)

    @classmethod
    def _read(cls, header: bytes) -> DatasetHeader:
        _, _, _, image_size, chunk_size, chunks, filesystem, created, uid, gid = _FIXED.unpack_from(header)
        if chunk_size < 1 or chunks > MAX_CHUNKS or chunks != chunk_count(image_size, chunk_size):
            raise UserError(f"is damaged: {chunks} chunks of {chunk_size} bytes do not make {image_size} bytes")
        length = struct.unpack_from("<I", header, _TEXT_AT)[0]
        notes: Any = json.loads(header[_TEXT_AT + 4 : _TEXT_AT + 4 + length])
        if not isinstance(notes, dict):
            raise ValueError("notes")
        table = header[_TABLE_AT : _TABLE_AT + chunks * DIGEST_SIZE]
        digests = tuple(table[at : at + DIGEST_SIZE] for at in range(0, len(table), DIGEST_SIZE))
        seal = bytes(header[_MAC_AT:HEADER_SIZE])
        return cls(image_size, chunk_size, digests, uuid.UUID(bytes=filesystem), created, uid, gid, notes, seal)


def chunk_count(image_size: int, chunk_size: int) -> int:
    """How many chunks an image has; the last may be short."""
    return -(-image_size // chunk_size)


def chunk_size_for(image_size: int) -> int:
    """The smallest power of two, 1 MiB at least, whose digests fit into the header: 4 GiB for 100 TiB."""
    size = MIN_CHUNK
    while chunk_count(image_size, size) > MAX_CHUNKS:
        size *= 2
    return size


def dataset_key(site_key: bytes) -> bytes:
    """The key of dataset headers, derived from the site key as docs/interfaces.md says."""
    return hmac.digest(site_key, b"ebb dataset v1", "sha256")


def _check_format(header: bytes) -> None:
    if len(header) < HEADER_SIZE:
        raise UserError(f"is no dataset: {len(header)} bytes, a header alone has {HEADER_SIZE}")
    if not header.startswith(_MAGIC):
        raise UserError("is no dataset: it does not begin as one")
    version = struct.unpack_from("<I", header, len(_MAGIC))[0]
    if version != _VERSION:
        raise UserError(f"has dataset format {version}, this Ebb reads format {_VERSION}")


def _mac(key: bytes, header: bytes | bytearray) -> bytes:
    return hmac.digest(key, bytes(header[:_MAC_AT]), "sha256")
