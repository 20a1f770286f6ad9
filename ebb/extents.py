"""Where an image holds data: sorted stretches of bytes, and how to learn them from a sparse file."""

from __future__ import annotations

import errno
import os
import stat
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Extents:
    """Stretches of bytes by their begins and stops: sorted, apart from each other. All else is zeros or of no use."""

    begins: tuple[int, ...]
    stops: tuple[int, ...]

    @classmethod
    def of(cls, stretches: Iterable[tuple[int, int]]) -> Extents:
        """From (begin, stop) pairs in ascending order; those that touch are joined."""
        begins: list[int] = []
        stops: list[int] = []
        for begin, stop in stretches:
            if begin >= stop:
                continue
            if stops and begin <= stops[-1]:
                stops[-1] = max(stops[-1], stop)
            else:
                begins.append(begin)
                stops.append(stop)
        return cls(tuple(begins), tuple(stops))

    @classmethod
    def whole(cls, size: int) -> Extents:
        """Everything from 0 to `size`."""
        return cls.of([(0, size)])

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self.begins, self.stops, strict=True))

    def within(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """(begin, stop) of what lies between `start` and `end`."""
        at = bisect_right(self.stops, start)
        while at < len(self.begins) and self.begins[at] < end:
            yield max(self.begins[at], start), min(self.stops[at], end)
            at += 1

    def common(self, other: Extents) -> Extents:
        """What is in both."""
        return Extents.of(piece for begin, stop in self for piece in other.within(begin, stop))


def data_extents(descriptor: int, offset: int, size: int) -> Extents:
    """Where `size` bytes from `offset` of an open file hold data, relative to `offset`; a device: everywhere.

    The whole map is asked for at once: the kernel looks through a file's map for each question.
    """
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return Extents.whole(size)
    found: list[tuple[int, int]] = []
    position = 0
    while position < size:
        try:
            begin = os.lseek(descriptor, offset + position, os.SEEK_DATA) - offset
            stop = os.lseek(descriptor, offset + begin, os.SEEK_HOLE) - offset
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data behind here (lseek(2))
                break
            begin, stop = position, size  # a file system without holes
        found.append((begin, min(stop, size)))
        position = stop
    return Extents.of(found)
