"""Compares what was copied with its source, byte for byte by BLAKE3 digests of both."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from enum import Enum

from blake3 import blake3

from ebb.migrate.scan import Entry, Kind

_BLOCK = 1 << 20
_ZEROS = bytes(_BLOCK)
_SECOND = 1_000_000_000


class Verdict(Enum):
    """How an entry fares. CHANGED: the source is no longer what the scan saw, so its copy may be of a mixture."""

    DIFFERS = "differs"
    CHANGED = "changed"


Finding = tuple[Verdict, str]


def compare(source: bytes, target: bytes, entry: Entry, told: Callable[[int], None]) -> Finding | None:
    """What is wrong with the copy of a FILE or SYMLINK; None: nothing. told: called with bytes read of the source."""
    try:
        if entry.kind is Kind.SYMLINK:
            return _symlink(source, target, entry)
        original = _digest(source, told)
        changed = _changed(source, entry)
    except OSError as error:
        return Verdict.CHANGED, f"the source cannot be read any more: {error.strerror}"
    if changed:
        return Verdict.CHANGED, changed
    try:
        copied = _digest(target, lambda _: None)
        status = os.lstat(target)
    except OSError as error:
        return Verdict.DIFFERS, f"the copy cannot be read: {error.strerror}"
    if status.st_size != entry.size:
        return Verdict.DIFFERS, f"{entry.size} bytes became {status.st_size}"
    if original != copied:
        return Verdict.DIFFERS, "its content is another"
    if status.st_mode & 0o777 != entry.mode & 0o777:
        return Verdict.DIFFERS, f"mode {entry.mode & 0o777:o} became {status.st_mode & 0o777:o}"
    # Within a second: not every file system keeps nanoseconds.
    if abs(status.st_mtime_ns - entry.mtime_ns) > _SECOND:
        return Verdict.DIFFERS, "its modification time is another"
    return None


def _symlink(source: bytes, target: bytes, entry: Entry) -> Finding | None:
    if os.readlink(source) != entry.target:
        return Verdict.CHANGED, "the link leads elsewhere now"
    try:
        copied = os.readlink(target)
    except OSError as error:
        return Verdict.DIFFERS, f"the copy is no link: {error.strerror}"
    return None if copied == entry.target else (Verdict.DIFFERS, "the copy of the link leads elsewhere")


def _changed(source: bytes, entry: Entry) -> str | None:
    status = os.lstat(source)
    if status.st_size != entry.size:
        return f"{entry.size} bytes when it was looked at first, {status.st_size} now"
    return "written while it was copied" if status.st_mtime_ns != entry.mtime_ns else None


def _digest(path: bytes, told: Callable[[int], None]) -> bytes:
    """Of the blocks that are not all zeros, each with its offset: holes are zeros, and cost nothing."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0):
        # What this node has in memory would say nothing about what the other side has.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        hasher, at = blake3(), 0
        while True:
            start = _next_data(descriptor, at)
            block = _read(descriptor, start)
            if not block:
                told(max(0, os.fstat(descriptor).st_size - at))
                return hasher.digest()
            if block != _ZEROS[: len(block)]:
                hasher.update(start.to_bytes(8, "big"))
                hasher.update(block)
            told(start + len(block) - at)
            at = start + len(block)


def _next_data(descriptor: int, at: int) -> int:
    """The first block from `at` on that may have data; the end of the file if only a hole is left."""
    try:
        return max(at, os.lseek(descriptor, at, os.SEEK_DATA) // _BLOCK * _BLOCK)
    except OSError as error:
        return max(at, os.fstat(descriptor).st_size) if error.errno == errno.ENXIO else at


def _read(descriptor: int, at: int) -> bytes:
    """A whole block, or what is left of the file: a server may hand over less than was asked for."""
    block = os.pread(descriptor, _BLOCK, at)
    while 0 < len(block) < _BLOCK and (more := os.pread(descriptor, _BLOCK - len(block), at + len(block))):
        block += more
    return block
