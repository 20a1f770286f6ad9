"""The two ends of a copy. An image is read from a `Source` and written to a `Target`: a volume, the user's file behind
its header, or an object in an object store.

Offsets are those of the image, in bytes: what stands before the image, or how it is packed, is the end's own business.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol

from dnd.tools import kernel
from ebb.errors import EnvironmentFault
from ebb.extents import Extents, data_extents

ALIGNED = 4096
"""What O_DIRECT needs of offsets, lengths and memory, for any disk."""


class Truncated(EnvironmentFault):
    """The source ended before its time."""


class Source(Protocol):
    """Where an image comes from. Called by several threads at a time, in any order, unless it is `in_order`."""

    @property
    def in_order(self) -> bool:
        """True for a stream: one thread then reads with offsets that only grow."""
        ...

    def extents(self, size: int) -> Extents:
        """Where the first `size` bytes may hold anything but zeros; `Extents.whole(size)` if that is not known."""
        ...

    def read(self, view: memoryview, offset: int) -> None:
        """Fill `view` from `offset`. Raises Truncated if the source ends there, OSError or EbbError if it fails."""
        ...


class Target(Protocol):
    """Where an image goes. It must read as zeros wherever nothing is written. Called by several threads at a time."""

    def write(self, view: memoryview, offset: int) -> None:
        """Write all of `view` at `offset`. Raises OSError or EbbError."""
        ...

    def passed(self, chunk: int) -> None:
        """Nothing more is written of this chunk: it is whole, was all zeros, or could not be copied."""
        ...

    def sync(self) -> None:
        """Return when all that was written so far is safe. Other threads go on writing. Raises OSError or EbbError."""
        ...


@dataclass(frozen=True, slots=True)
class FileSource:
    """An open file or device in which the image begins at `start`. known: where it holds data, if that is known better
    than the file system says.
    """

    descriptor: int
    start: int = 0
    known: Extents | None = None
    in_order: bool = False

    def extents(self, size: int) -> Extents:
        """What the file system says, as far as it is also in `known`."""
        found = data_extents(self.descriptor, self.start, size)
        return found if self.known is None else found.common(self.known)

    def read(self, view: memoryview, offset: int) -> None:
        """One large pread, repeated where it comes back short."""
        done = 0
        while done < len(view):
            count = os.preadv(self.descriptor, [view[done:]], self.start + offset + done)
            if count == 0:
                raise Truncated(f"the source ends at byte {self.start + offset + done}")
            done += count


@dataclass(frozen=True, slots=True)
class FileTarget:
    """An open file or device in which the image begins at `start`. direct: a device's second descriptor, with O_DIRECT:
    what is aligned goes past the page cache, which saves a copy and the waiting at the end.
    """

    descriptor: int
    start: int = 0
    direct: int | None = None

    def write(self, view: memoryview, offset: int) -> None:
        """One large pwrite, repeated where it comes back short; on its way to the disk while the copy goes on."""
        at, descriptor = self.start + offset, self.descriptor
        if self.direct is not None and at % ALIGNED == 0 and len(view) % ALIGNED == 0:
            descriptor = self.direct
        done = 0
        while done < len(view):
            done += os.pwritev(descriptor, [view[done:]], at + done)
        if descriptor == self.descriptor:
            kernel.start_writing(descriptor, at, done)

    def passed(self, chunk: int) -> None:
        """Every chunk has its place: nothing."""

    def sync(self) -> None:
        """fsync(2)."""
        os.fsync(self.descriptor)

    def clear(self, begin: int, stop: int) -> None:
        """Make these bytes zeros again."""
        kernel.make_zeros(self.descriptor, self.start + begin, self.start + stop)
