"""What lies below some directories: names, kinds, sizes, and what it will take in a buffer. Changes nothing."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from ebb.errors import UserError

_BLOCK = 4096
_INODE = 512
_LOG = 96 << 20
_SHARE = 125
"""XFS takes 96 MiB and 1/125 of its size at most: mkfs.xfs 6.1 from 300 MiB to 2 TiB, measured by statvfs."""


class Kind(Enum):
    """What an entry is. A LINK is a second name of a FILE that was found before."""

    FILE = "f"
    DIRECTORY = "d"
    SYMLINK = "l"
    LINK = "h"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a part of the data comes from: `base` is a directory, `name` what of it; empty: all that is in it."""

    base: bytes
    name: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """One name. `path` is relative to its source's base, and to the target as well.

    source: index of its Source. size: bytes, 0 unless a FILE. target: of a SYMLINK its text, of a LINK the first path.
    """

    kind: Kind
    source: int
    path: bytes
    size: int
    mode: int
    mtime_ns: int
    target: bytes = b""


@dataclass(slots=True)
class Found:
    """The result of a scan. need: bytes in an XFS without that file system's own share. Paths are absolute."""

    entries: list[Entry] = field(default_factory=list)
    need: int = 0
    special: list[bytes] = field(default_factory=list)
    unreadable: list[bytes] = field(default_factory=list)

    def of(self, *kinds: Kind) -> list[Entry]:
        """The entries of these kinds, in the order they were found: a directory before what is in it."""
        return [entry for entry in self.entries if entry.kind in kinds]

    @property
    def size(self) -> int:
        """Bytes of all files, as `ls` shows them."""
        return sum(entry.size for entry in self.entries)


Keep = Callable[[bytes], bool]


def scan(sources: Sequence[Source], *, skip: Sequence[bytes] = (), keep: Keep | None = None) -> Found:
    """Look at everything below `sources`; symbolic links are not followed, mount points are crossed.

    skip: directories that are left out with all below them. keep: asked for each relative path whether it is wanted;
    what lies below a wanted directory is wanted, and so are the directories on the way to what is wanted.
    Raises UserError if a source is not there. What cannot be read, and what is no file, directory or link, is listed.
    """
    walk = _Walk(keep)
    for each in skip:
        try:
            status = os.stat(each)
        except OSError:
            continue
        walk.skip.add((status.st_dev, status.st_ino))
    for index, source in enumerate(sources):
        walk.source(index, source)
    return walk.found


class _Walk:
    def __init__(self, keep: Keep | None) -> None:
        self.found = Found()
        self.skip: set[tuple[int, int]] = set()
        self.keep = keep
        self.first: dict[tuple[int, int], bytes] = {}
        self.made: set[bytes] = set()

    def source(self, index: int, source: Source) -> None:
        top = os.path.join(source.base, source.name) if source.name else source.base
        try:
            status = os.lstat(top) if source.name else os.stat(top)
        except OSError as error:
            raise UserError(f"`{os.fsdecode(top)}` cannot be read: {error.strerror}") from error
        stack = [(source.name, status, self.keep is None)]
        while stack:
            path, status, wanted = stack.pop()
            wanted = wanted or (self.keep is not None and bool(path) and self.keep(path))
            if not stat.S_ISDIR(status.st_mode):
                if wanted:
                    self.leaf(index, source.base, path, status)
            elif (status.st_dev, status.st_ino) not in self.skip:
                if wanted and path:
                    self.directory(index, source.base, path, status)
                stack += [(*child, wanted) for child in self.children(source.base, path)]

    def children(self, base: bytes, path: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
        top = os.path.join(base, path) if path else base
        try:
            with os.scandir(top) as listing:
                names = sorted((entry.name for entry in listing), reverse=True)
            for name in names:
                yield os.path.join(path, name), os.lstat(os.path.join(top, name))
        except FileNotFoundError:
            return  # removed under our eyes: no part of what is moved
        except OSError:
            self.found.unreadable.append(top)

    def directory(self, index: int, base: bytes, path: bytes, status: os.stat_result) -> None:
        if path in self.made:
            return
        self.parents(index, base, path)
        self.made.add(path)
        self.add(Entry(Kind.DIRECTORY, index, path, 0, stat.S_IMODE(status.st_mode), status.st_mtime_ns), _BLOCK)

    def parents(self, index: int, base: bytes, path: bytes) -> None:
        above = os.path.dirname(path)
        if above and above not in self.made:
            self.directory(index, base, above, os.lstat(os.path.join(base, above)))

    def leaf(self, index: int, base: bytes, path: bytes, status: os.stat_result) -> None:
        whole = os.path.join(base, path)
        mode, when = stat.S_IMODE(status.st_mode), status.st_mtime_ns
        if stat.S_ISLNK(status.st_mode):
            self.parents(index, base, path)
            self.add(Entry(Kind.SYMLINK, index, path, 0, mode, when, os.readlink(whole)), 0)
        elif not stat.S_ISREG(status.st_mode):
            self.found.special.append(whole)
        elif not os.access(whole, os.R_OK):
            self.found.unreadable.append(whole)
        else:
            self.parents(index, base, path)
            self.file(Entry(Kind.FILE, index, path, status.st_size, mode, when), whole, status)

    def file(self, entry: Entry, whole: bytes, status: os.stat_result) -> None:
        identity = (status.st_dev, status.st_ino)
        first = self.first.get(identity) if status.st_nlink > 1 else None
        if first is not None:
            self.add(Entry(Kind.LINK, entry.source, entry.path, 0, entry.mode, entry.mtime_ns, first), 0)
            return
        self.first[identity] = entry.path
        self.add(entry, _rounded(stored(whole, status)))

    def add(self, entry: Entry, data: int) -> None:
        self.found.entries.append(entry)
        # 64: a directory entry and its part of the index.
        self.found.need += data + _INODE + len(os.path.basename(entry.path)) + 64


def stored(whole: bytes, status: os.stat_result) -> int:
    """Bytes of a file that are no hole. Its size if nobody can tell.

    Blocks alone do not tell: a file system that compresses counts fewer.
    """
    if status.st_blocks * 512 >= status.st_size:
        return status.st_size
    total, at = 0, 0
    try:
        with open(whole, "rb", buffering=0) as file:
            while at < status.st_size:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
                at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
                total += at - start
    except OSError as error:
        return total if error.errno == errno.ENXIO else status.st_size  # ENXIO: only a hole is left
    return total


def _rounded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def usable(storage: int) -> int:
    """Bytes that a new buffer of `storage` bytes has for data, estimated low."""
    return max(0, storage - _LOG - storage // _SHARE)


def storage_for(need: int) -> int:
    """The smallest StorageSize, a whole MiB and 300 MiB at least, in which `need` bytes fit."""
    mib = 1 << 20
    size = max(300 * mib, -(-(need + _LOG) * _SHARE // (_SHARE - 1)))
    return -(-size // mib) * mib
